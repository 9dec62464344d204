// The line about the data, and which part the navigation marks.
"use strict";

$("#about").textContent = `${content.user ? `Your own models${content.quick ? " (quick runs)" : ""}, where there are any` : "Published models"}; data: ${content.data.join(", ")}.`;

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(target.id).setAttribute("aria-current", "true");
  }
}, { rootMargin: "-30% 0px -65% 0px" });
for (const section of document.querySelectorAll("main section")) inView.observe(section);
if (!content.models.vae2) document.body.dataset.ready = performance.now();

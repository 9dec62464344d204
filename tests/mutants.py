"""Deliberate faults, one at a time, and whether the fast tests notice them: make test-mutants

python tests/mutants.py [NAMES]    slow; one process per core, each with its own copy of the checkout
"""

# ruff: noqa: E501, F401
import concurrent.futures
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot
import pytest
import scipy.ndimage
import scipy.stats
import torch.utils.flop_counter
import torchvision.datasets  # all imported once here, not once for each fault

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "code",
    "datasets",
    "docs",
    "report",
    "tests",
    "README.md",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
    "requirements.txt",
)
LONGEST = 300  # seconds: a fault may make a test run for ever
ENOUGH = 0.95
# (file, test files that should notice): [(name, old text, new text)]
GROUPS = {
    ("code/a3_vae_template.py", "test_vae"): [
        ("vae: sign of log sigma in the KL", "- 1 - 2 * std.log())", "- 1 + 2 * std.log())"),
        ("vae: wrong sign of the KL's training gradient", "kl = with_gradient_of(path, kl)", "kl = with_gradient_of(-path, kl)"),
        ("vae: path gradient lost", "= mean.detach(), std.detach()", "= mean, std"),
        ("vae: one noise vector for all images", "distributed.noise(torch.randn_like, mean)", "torch.randn_like(mean[:1])"),
        ("vae: gradients never zeroed", "optimizer.zero_grad()", "pass"),
        ("vae: schedule not stepped", "                schedule.step()", "                pass"),
        ("vae: learns from validation images", "    model.eval()\n    val_elbo = epoch_iter", "    val_elbo = epoch_iter"),
        ("vae: last batch counts as a whole one", "distributed.sum_over_processes(elbo, images)", "distributed.sum_over_processes(elbo, len(data) * len(x))"),
        ("vae: last chunk of draws too large", "min(samples, n_samples - start) for", "samples for"),
        ("vae: importance weights without log sigma", "(0.5 * (eps**2 - z**2) + std.log())", "(0.5 * (eps**2 - z**2))"),
        ("vae: mean of logarithms", "(log_w.logsumexp(0) - math.log(n_samples)).sum()", "log_w.mean(0).sum()"),
        ("vae: active by the standard deviation", "(mean.var(0) > 0.01)", "(mean.std(0) > 0.01)"),
    ],
    ("code/a3_vae_template.py", "test_training"): [
        ("vae: worst epoch kept", "if max(run.history, key=score) is run", "if min(run.history, key=score) is run"),
        ("vae: epoch kept by training images", 'score = lambda row: row["val_elbo"]', 'score = lambda row: row["train_elbo"]'),
        ("vae: last epoch judged", "    model.load_state_dict(best)\n", ""),
        ("vae: validation images as test images", 'run.progress(test, "test")', 'run.progress(val, "test")'),
        ("vae: share of shifted images stays", "train.share = max(0.3, 1 - (epoch - 1) / (0.9 * args.epochs))", "pass"),
        ("vae: epochs not seeded", "        run.seed(epoch)\n", ""),
        ("vae: test not seeded", "    run.seed(args.epochs + 1)\n", ""),
    ],
    ("code/a3_gan_template.py", "test_gan"): [
        ("gan: G's gradients never zeroed", "        optimizer_G.zero_grad()\n", ""),
        ("gan: detach missing", "discriminator.logits(fake.detach())", "discriminator.logits(fake)"),
        ("gan: optimisers exchanged", "generator, optimizer_G, optimizer_D, penalty=", "generator, optimizer_D, optimizer_G, penalty="),
        ("gan: D steps after G", "        optimizer_D.step()\n\n        discriminator.requires_grad_(False)",
         "        later = optimizer_D.step\n        after_step = lambda step=after_step: (later(), step())\n"
         "        discriminator.requires_grad_(False)"),
        ("gan: G's step leaves gradients in D", "discriminator.requires_grad_(False)", "discriminator.requires_grad_(True)"),
        ("gan: decay and its complement exchanged", "mean.lerp_(now, 1 - decay)", "mean.lerp_(now, decay)"),
        ("gan: BatchNorm statistics of other weights", "torch.optim.swa_utils.update_bn(noise, average)", "pass"),
        ("gan: no penalty", "        objective.backward()", "        loss_D.backward()"),
        ("gan: penalty too weak", "PENALTY_EVERY * penalty / 2", "penalty / 2"),
        ("gan: length in place of its square", "gradient.square().sum(1)", "gradient.norm(dim=1)"),
        ("gan: penalty of real images only", " + gradient_penalty(discriminator, fake)", ""),
        ("gan: codes all the same", "torch.randint(self.codes, (n,), generator=numbers)", "torch.zeros(n, dtype=torch.long)"),
        ("gan: waves of equal size", "/ (1 + frequencies)", "/ (1 + 0 * frequencies)"),
        ("gan: straight path stops early", "t = torch.linspace(0, 1, n, device=a.device).unsqueeze(1)\n    return (1",
         "t = torch.linspace(0, 0.9, n, device=a.device).unsqueeze(1)\n    return (1"),
    ],
    ("code/a3_gan_template.py", "test_training"): [
        ("gan: trained without penalty", "optimizer_G, optimizer_D, args.penalty, after_step)", "optimizer_G, optimizer_D, 0.0, after_step)"),
        ("gan: long average from the start", "min(args.averaging, (1 + steps) / (10 + steps))", "args.averaging"),
        ("gan: worst epoch kept", 'distance <= min(row["frechet_val"]', 'distance >= max(row["frechet_val"]'),
        ("gan: epoch chosen by training images", "classify(classifier, val.images / 255)",
         "classify(classifier, train_data.images.cpu() / 255)"),
        ("gan: judged by validation images", "real, training = test.images / 255,", "real, training = val.images / 255,"),
        ("gan: weights of the moment kept", "best = copy.deepcopy(average.state_dict())", "best = copy.deepcopy(generator.state_dict())"),
        ("gan: learning rate stays", "decay = min(1.0, (1 - (epoch - 1) / args.n_epochs) / 0.7)", "decay = 1.0"),
        ("gan: steps forgotten on resuming", 'state.get("steps", 0)', "0"),
    ],
    ("code/a3_nf_template.py", "test_nf"): [
        ("nf: sign of the log-determinant", "+ shift, ldj + log_scale.sum(1)", "+ shift, ldj - log_scale.sum(1)"),
        ("nf: inverse shifts after scaling", "(changed - shift) * torch.exp(-log_scale)", "changed * torch.exp(-log_scale) - shift"),
        ("nf: logit of z / 255", "(1 - self.alpha) * z / 256\n", "(1 - self.alpha) * z / 255\n"),
        ("nf: alpha not taken back", "(torch.sigmoid(z) - self.alpha / 2) / (1 - self.alpha) * 256", "torch.sigmoid(z) * 256"),
        ("nf: constant of alpha missing", "(math.log(1 - self.alpha) - math.log(256))", "(-math.log(256))"),
        ("nf: mask of rows", "(row + column) % 2 == 0", "row % 2 == 0"),
        ("nf: prior without its constant", "-0.5 * (x**2 + math.log(2 * math.pi))", "-0.5 * x**2"),
        ("nf: sign of the learned noise", "input + u, -log_q", "input + u, log_q"),
        ("nf: clipped before backward", "loss.backward()\n            distributed.sum_gradients(model)\n            nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
         "nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n            loss.backward()"),
        ("nf: nats for bits", "(dimensions * math.log(2))", "dimensions"),
        ("nf: last batch counts as a whole one", "distributed.sum_over_processes(total, images)", "distributed.sum_over_processes(total, len(imgs) * len(data))"),
        ("nf: mean of logarithms", "(groups.logsumexp(1) - math.log(n_samples)).mean(0)", "groups.mean((0, 1))"),
        ("nf: round trip in float32 only", "images.cpu().to(dtype)", "images.cpu().float()"),
        ("nf: interpolation never arrives", "torch.linspace(0, 1, 9, device", "torch.linspace(0, 0.9, 9, device"),
    ],
    ("code/a3_nf_template.py", "test_training"): [
        ("nf: worst epoch kept", 'if val_bpd <= min(run.column("val_bpd"))', 'if val_bpd >= max(run.column("val_bpd"))'),
        ("nf: eight draws of validation images", 'run.progress(test, "test, 8 samples")', 'run.progress(val, "test, 8 samples")'),
        ("nf: bar passed by training images", 'run.history if row["val_bpd"] < TARGET', 'run.history if row["train_bpd"] < TARGET'),
    ],
    ("code/nets/multiscale.py", "test_nf"): [
        ("multiscale: sign of actnorm", "torch.exp(-log_std), ldj - logdet", "torch.exp(-log_std), ldj + logdet"),
        ("multiscale: actnorm measures every batch", "and not self.started", ""),
        ("multiscale: logistics without their scale", "above - log_weight - log_scale", "above - log_weight"),
        ("multiscale: weights counted twice", "above - log_weight - log_scale", "above - log_scale"),
        ("multiscale: upper tail loses its digits", "t.clamp_max(0) - torch.log(1 + torch.exp(-t.abs()))", "torch.log(torch.sigmoid(t))"),
        ("multiscale: the search stops early", "eps * (1 + x[0].abs())", "1e-2 * (1 + x[0].abs())"),
        ("multiscale: inverse without the mixture's slope", "                total = total + log_slope.sum((1, 2, 3))\n", ""),
        ("multiscale: components start alike", "means += torch.linspace", "means += 0 * torch.linspace"),
        ("multiscale: noise not as wide as its density", "torch.exp(log_std) * e", "torch.exp(log_std / 2) * e"),
        ("multiscale: half of the noise's density", "- F.logsigmoid(t) - F.logsigmoid(-t)", "- F.logsigmoid(t)"),
    ],
    ("code/nets/muon.py", "test_muon"): [
        ("muon: momentum without Nesterov", "update = parameter.grad.lerp(momentum, MOMENTUM)", "update = momentum.clone()"),
        ("muon: gradients not averaged", "lerp_(parameter.grad, 1 - MOMENTUM)", "lerp_(parameter.grad, 1)"),
        ("muon: norm over all matrices", "matrices.norm(dim=(1, 2), keepdim=True)", "matrices.norm()"),
        ("muon: tall matrices not turned back", "return x.mT if matrices.shape[1] > matrices.shape[2] else x", "return x.mT.reshape(matrices.shape)"),
        ("muon: AdamW moves the hidden weights too", "            parameter.grad = None  # AdamW skips parameters without a gradient\n", ""),
        ("muon: hidden weights at the other rate", 'alpha=group["lr"]', 'alpha=self.param_groups[0]["lr"]'),
        ("muon: hidden weights do not decay", 'parameter.mul_(1 - group["lr"] * group["weight_decay"])', "pass"),
    ],
    ("code/common/run.py", "test_training"): [
        ("run: earlier machines forgotten", 'state.pop("machines", [])', 'state.pop("machines", [])[:0]'),
        ("run: all epochs seeded alike", "1_000_003 * seed + epoch", "1_000_003 * seed"),
        ("run: optimiser not restored", "for name, part in parts.items():\n            load_weights",
         "for name, part in parts.items():\n            if isinstance(part, torch.nn.Module): load_weights"),
        ("run: other code accepted", 'saved.get("code", self.code) != self.code', "False"),
        ("run: other settings accepted", "if before.get(key) != now.get(key)", "if False"),
        ("run: seconds of all epochs in each", "self.seconds - sum(self.epoch_seconds)", "self.seconds"),
    ],
    ("code/common/distributed.py", "test_distributed"): [
        ("distributed: noise of each share alone", "local_rows(draw(torch.empty_strided(shape,", "draw(torch.empty_strided(like.shape,"),
        ("distributed: noise in another order", "(row, *like.stride()[1:])", "(like.shape[1:].numel(), *torch.empty(like.shape).stride()[1:])"),
        ("distributed: mean of each share", "x.sum() / (rows[2] *", "x.sum() / (len(x) *"),
        ("distributed: gradients not summed", "sums = add(torch.cat(", "sums = (torch.cat("),
        ("distributed: gradient of a sum stays where it is", "        return Sum.forward(ctx, gradient)", "        return gradient"),
        ("distributed: normalised by the share", "local_rows(super().forward(global_batch(x)))", "super().forward(x)"),
        ("distributed: totals of one process", "return add(torch.tensor([float", "return (torch.tensor([float"),
        ("distributed: everything to everyone", "rows[0] : rows[1]", ":"),
    ],
    ("code/a3_gan_template.py", "test_distributed"): [
        ("gan: D's gradients of one process", "        distributed.sum_gradients(discriminator)\n", ""),
        ("gan: every process draws", " and distributed.rank == 0:", ":"),
        ("gan: skips a share of one image", "if size == 1:", "if len(imgs) == 1:"),
    ],
    ("code/a3_nf_template.py", "test_distributed"): [
        ("nf: gradients of one process", "            distributed.sum_gradients(model)\n", ""),
        ("nf: all processes judge", "    if distributed.end():\n        return\n", "    distributed.end()\n"),
    ],
    ("code/a3_vae_template.py", "test_distributed"): [("vae: everyone trains on everything", "in distributed.local_batches(data)", "in data")],
    ("code/nets/multiscale.py", "test_distributed"): [
        ("multiscale: actnorm measures a share", "distributed.global_batch(z)", "z"),
        ("multiscale: noise of the share", "distributed.noise(torch.randn_like, mean)", "torch.randn_like(mean)"),
    ],
    ("code/common/run.py", "test_run"): [
        ("run: peak of the schedule late", "pct_start=0.1", "pct_start=0.3"),
        ("run: the schedule changes Adam's betas", "cycle_momentum=False", "cycle_momentum=True"),
        ("run: any setting may change", "EVALUATION if can_resume and self.args.resume else ()", "now"),
        ("run: evaluated again without being told", "EVALUATION if can_resume and self.args.resume", "EVALUATION if can_resume"),
        ("run: the evaluation counts as training", "self.machines, self.commit = machines, commit", "pass"),
        ("run: changed work tree not marked", '"--dirty", ', ""),
    ],
    ("code/common/run.py", "test_distributed"): [("run: every process saves", "if distributed.rank > 0:", "if False:")],
    ("code/common/models.py", "test_run"): [
        ("models: published weights first", 'paths.append(PUBLISHED / f"{name}.pt")', 'paths.insert(0, PUBLISHED / f"{name}.pt")'),
        ("models: worst data first", "for data in data_names]", "for data in reversed(data_names)]"),
        ("models: --sample ignores --data", 'data_names if args.data == "auto" else [args.data]', "data_names"),
        ("models: published weights for any data", 'published=args.data in ("auto", *REAL)', "published=True"),
        ("models: published weights always accepted", 'if published:', 'if True:'),
    ],
    ("datasets/files.py", "test_run"): [("files: checksum ignored", "if hashlib.sha256(data[:-32]).digest() != data[-32:]", "if not data")],
    ("code/common/digest.py", "test_run"): [("digest: imports do not count", "waiting += filter(", "list(filter(")],
    ("code/common/quality.py", "test_gan"): [
        ("quality: samples that are not confident", "max(1).values > CONFIDENT", "max(1).values < CONFIDENT"),
        ("quality: divergence from another distribution", "(10 * share.clamp_min", "(5 * share.clamp_min"),
        ("quality: neighbour k - 1", "topk(k + 1, largest", "topk(k, largest"),
        ("quality: squared distances in balls", "distance = torch.cdist(real[part], fake)", "distance = torch.cdist(real[part], fake) ** 2"),
        ("quality: density not divided by k", "in_real_balls.mean() / k", "in_real_balls.mean()"),
        ("quality: biased covariance", "np.cov(a, rowvar=False)", "np.cov(a, rowvar=False, bias=True)"),
        ("quality: floor from test images", "for images in (samples, train)", "for images in (samples, real)"),
    ],
    ("datasets/mnist.py", "test_data"): [
        ("mnist: validation images from training", "[*images.split(sizes), test]", "[images.split(sizes)[0], images[:VALIDATION], test]"),
        ("mnist: labels of other images", "[*labels.split(sizes), test_labels]", "[*labels.split(sizes[::-1]), test_labels]"),
    ],
    ("datasets/bmnist.py", "test_data"): [("bmnist: binarised images lose their labels", "mnist.binarise(splits), labels, source", "mnist.binarise(splits), labels[::-1], source")],
    ("datasets/loading.py", "test_data"): [
        ("loading: test images shifted", "{\"shuffle\": True, \"shift\": shift}, {}, {}]", "{\"shuffle\": True, \"shift\": shift}, {}, {\"shift\": shift}]"),
        ("loading: share of shifted images ignored", ">= share] =", ">= 1] ="),
        ("loading: a prefix for a subset", "torch.linspace(0, len(self.images) - 1, min(n, len(self.images))).long()", "torch.arange(min(n, len(self.images)))"),
    ],
    ("code/study/registry.py", "test_evaluate"): [("registry: glyphs before MNIST", "for data in entry.data:", "for data in entry.data[::-1]:")],
    ("code/study/train.py", "test_study"): [
        ("train: a failing run stops the others", "                continue\n            finally", "                break\n            finally"),
        ("train: unfinished runs skipped", "more, is_complete(folder, entry, more, published)))", "more, folder.exists()))"),
        ("train: older code accepted", 'if published and results["code"] !=', 'if False and results["code"] !='),
        ("train: finished runs with other options accepted", "if words := difference(before, now, EVALUATION):", "if words := None:"),
        ("train: published runs keep their evaluation", "return not published or not difference(before, now)", "return True"),
        ("train: resumed epochs count as work", "progress.skipped += entry.seconds * share_done(folder)", "pass"),
    ],
    ("code/study/seeds.py", "test_study"): [
        ("seeds: other seeds taken", 'results["seed"] != seed or results["quick"]', 'results["quick"]'),
        ("seeds: other code accepted", 'if len({r["code"] for r in results}) > 1:', "if False:"),
        ("seeds: options that the first lacks", 'for r in results for key in r["settings"]', 'for r in results[:1] for key in r["settings"]'),
    ],
    ("code/study/evaluate.py", "test_evaluate"): [
        ("evaluate: training images as reference", "test.subset(n).images / white", "train.subset(n).images / white"),
        ("evaluate: other draws of seeds", 'seed_epoch(seed, results["epochs"] + 1)', "seed_epoch(42, results['epochs'] + 1)"),
        ("evaluate: other samples than the run's", '(results["seed"], results["epochs"] + 1)', '(results["seed"], results["epochs"])'),
    ],
    ("code/study/analyses.py", "test_analyses"): [
        ("analyses: z is not rounded", "z.float().double()", "z"),
        ("analyses: precise results lost", "if registry.is_analysed(folder) else {}", "if not registry.is_analysed(folder) else {}"),
        ("analyses: losses of G exchanged", "for loss in (saturating, other)]", "for loss in (other, saturating)]"),
        ("analyses: odds of D upside down", "(1 - scores[-1]) / scores[-1]", "scores[-1] / (1 - scores[-1])"),
    ],
    ("code/study/tables.py", "test_study"): [("tables: deviation shown as 0", "while 0 < deviation < 0.5 * 10**-digits:", "while False:")],
    ("code/study/tables.py", "test_publish"): [
        ("tables: columns exchanged", '["frechet", "precision", "recall",', '["frechet", "recall", "precision",'),
        ("tables: two digits of bits per dimension", '3 if "bpd" in metric else 2', "return 2"),
        ("tables: cost of another column", 'number(entry["training_seconds"], 0)', 'number(entry["seconds_per_1000_samples"], 0)'),
    ],
    ("code/study/publish.py", "test_publish"): [
        ("publish: other settings accepted", 'if difference(result["settings"], registry.settings(', 'if False and difference(result["settings"], registry.settings('),
        ("publish: uncommitted changes accepted", 'if "dirty" in (result["commit"] or "dirty"):', "if False:"),
        ("publish: analyses of another run", "and not registry.is_analysed(folder):", "and False:"),
        ("publish: quick runs accepted", 'if result["quick"] or result["data"] != entry.data[0]', 'if result["data"] != entry.data[0]'),
        ("publish: comparison of an earlier evaluation", 'entries[run]["likelihood"] = likelihood(result["final"])', "pass"),
        ("publish: ablations of older code", 'row.get("code") != digest(', "False and digest("),
        ("publish: seeds of another run", 'over_seeds[key]["values"][0] != final[key]', "False"),
        ("publish: full weights", "x.half() if x.is_floating_point() else x", "x"),
        ("publish: old analyses stay", "analyses.unlink(missing_ok=True)", "pass"),
        ("publish: two digits of bits per dimension", "tables.number(value, tables.digits_of(metric))", "tables.number(value, 2)"),
        ("publish: one seed in README", "if key in seeds.get(run, {}):", "if False:"),
        ("publish: the loser of the race first", "{row['ours']}, \"\n        text += f\"plain loop {row['plain loop']}.", "{row['plain loop']}, \"\n        text += f\"plain loop {row['ours']}."),
    ],
    ("code/study/gallery.py", "test_gallery"): [
        ("gallery: means in place of samples", "torch.bernoulli(images) if", "images if"),
        ("gallery: other samples each time", "        torch.manual_seed(SEED)\n", ""),
    ],
    ("code/study/bench.py", "test_bench"): [("bench: ratio inverted", "theirs[0] / mine[0]", "mine[0] / theirs[0]")],
    ("code/study/race.py", "test_race"): [
        ("race: judging counts", "        clock.stop()\n", ""),
        ("race: the batch before the step", "            yield batch  # the loop makes its step before it asks for the next batch\n", "            yield batch\n            yield batch\n"),
        ("race: a resumed loop starts with a new clock", "Clock(curve[-1][0] if curve else 0.0)", "Clock()"),
        ("race: lower bounds are better", "value >= target if higher else value <= target", "value <= target"),
        ("race: the plain loop's checkpoint of other code accepted", 'if state.get("made") != made:', "if False:"),
        ("race: targets on glyphs", "if quick or data not in REAL:", "if quick:"),
    ],
    ("code/study/latent.py", "test_analyses"): [
        ("latent: estimate is a mean of logarithms", "logsumexp(2) - math.log(size)", "mean(2)"),
        ("latent: region with half of the posterior", "cumsum(0) < 0.95", "cumsum(0) < 0.5"),
        ("latent: bound without the entropy of q", " - (log_q.exp() * log_q).sum((1, 2))", ""),
        ("latent: axes of the plane exchanged", "q1, q2 = log_q", "q2, q1 = log_q"),
        ("latent: quadrature without the prior", " + log_pz[part] + log_cell", " + log_cell"),
        ("latent: descent for ascent", "(-bound.sum()).backward()", "bound.sum().backward()"),
        ("latent: ascent starts at the encoder's q alone", "torch.where((starts[1] > starts[0])[:, None], mode, mean)", "mean"),
    ],
    ("code/study/latent.py", "test_codes"): [
        ("latent: covariance of fitted codes transposed", "torch.linalg.cholesky(torch.cov(codes.T)).T", "torch.linalg.cholesky(torch.cov(codes.T))"),
        ("latent: fitted codes without their mean", "return codes.mean(0) + noise @", "return noise @"),
    ],
    ("code/study/codes.py", "test_codes"): [
        ("codes: farthest neighbours", "topk(k, largest=False)", "topk(k, largest=True)"),
        ("codes: examples are classified", "(classify(codes[a], labels[a], codes[b]) == labels[b])", "(classify(codes[a], labels[a], codes[a]) == labels[a])"),
        ("codes: probe without bias", "F.linear(others, weights[:, :-1], weights[:, -1])", "F.linear(others, weights[:, :-1])"),
        ("codes: components of smallest variance", "directions[:n].T", "directions[-n:].T"),
    ],
    ("code/study/ablation.py", "test_ablation"): [
        ("ablation: planned epochs reported", '"epochs": results["epochs"]}', '"epochs": epochs}'),
        ("ablation: last epoch counts", '"value": max(values)', '"value": values[-1]'),
        ("ablation: other code accepted", '(results["code"], results["settings"]) != (code_digest(entry.script), settings)', "False"),
        ("ablation: the timed epoch is always the variant", "(epochs, seed) == (1, SEEDS[0])", "seed == SEEDS[0]"),
        ("ablation: other machines accepted", "any(each[key] != about[key] for each in found)", "False"),
        ("ablation: changes are not added up", "[: i + 1])", "[i : i + 1])"),
    ],
    ("code/study/loops.py", "test_loops"): [
        ("loops: path gradient in each row", 'model.train("path" in changes)', "model.train()"),
        ("loops: share of shifted images stays", "        finished += 1\n", ""),
    ],
    ("code/beyond/autoregressive.py", "test_autoregressive"): [
        ("autoregressive: Markov sees its pixel", "[padded[:, :-2], padded[:, 1:-1]]", "[padded[:, 1:-1], padded[:, 2:]]"),
        ("autoregressive: first row of taps off by one", "F.pad(image, (self.LEFT, 0))[:, :, :, :-1]", "F.pad(image, (self.LEFT - 1, 0))"),
        ("autoregressive: cached tap off by one", "take(before, d - dilation, h)", "take(before, d - dilation - 1, h)"),
        ("autoregressive: highest octave missing", "2.0 ** torch.arange(OCTAVES if", "2.0 ** torch.arange(OCTAVES - 1 if"),
        ("autoregressive: left pixels padded before the waves", "F.pad(self.planes(x[:, row * SIDE : d]), (0, 0, self.LEFT, 0))", "self.planes(F.pad(x[:, row * SIDE : d], (self.LEFT, 0)))"),
        ("autoregressive: rows of taps exchanged", "for row in padded for shift in shifts", "for row in padded[::-1] for shift in shifts"),
        ("autoregressive: taps mirrored", "row[:, width + shift : width + shift + SIDE]", "row[:, width - shift : width - shift + SIDE]"),
        ("autoregressive: dropout in eval mode", "self.dropout(gate(conv_h(", "F.dropout2d(gate(conv_h("),
        ("autoregressive: sigmoid of the gate not shifted", "value * F.hardsigmoid(opening)", "value * F.hardtanh(opening / 3, 0, 1)"),
        ("autoregressive: plain GRU reads the row above", "if above else (1,)", "if above else (1, SIDE)"),
        ("autoregressive: pixel one too dark", "(self.likelihood.cumulative(a) <= uniforms", "(1 - self.likelihood.cumulative(a) <= uniforms"),
    ],
    ("code/beyond/autoregressive.py", "test_training"): [
        ("autoregressive: most bits kept", 'else -row["val_bpd"]', 'else row["val_bpd"]'),
        ("autoregressive: validation images as test images", 'run.progress(test, "test")', 'run.progress(val, "test")'),
    ],
    ("code/beyond/vae_family.py", "test_vae_family"): [
        ("family: grid encoder without the normalisation of p(x|z)", "input @ logits.T - F.softplus(logits).sum(1)", "input @ logits.T"),
        ("family: beta not trained with", "vae.with_gradient_of(self.beta * kl, kl)", "kl"),
        ("family: beta weighs the recorded KL term", "vae.with_gradient_of(self.beta * kl, kl)", "self.beta * kl"),
        ("family: samples of the prior without its flow", "return noise if self.prior is None else self.prior.from_noise(noise)", "return noise"),
        ("family: decoder learns through the grid", "with torch.no_grad(), torch.autocast(input", "with torch.enable_grad(), torch.autocast(input"),
        ("family: grid encoder starts at 0", "return posterior @ self.grid + 0.3 * correction", "return 0.3 * correction"),
        ("family: autoencoder with noise", "self.log_px_z(x, self.code(x))", "self.log_px_z(x, self.encode(x, 1)[0])[0]"),
        ("family: path gradient behind a flow lost", "along(z, start, log_q - ldj) if self.training else", ""),
        ("family: free bits clamped from above", "exact.mean(0).clamp_min(self.free_bits)", "exact.mean(0).clamp_max(self.free_bits)"),
        ("family: importance weights count once", "z.register_hook(lambda gradient: weights.unsqueeze(-1) * gradient)", "pass"),
    ],
    ("code/nets/residual.py", "test_vae_family"): [
        ("residual: no shortcut", "return x + self.second", "return self.second"),
        ("residual: features in another order", "h.reshape(-1, 7, 7, h.shape[-1] // 49).permute(0, 3, 1, 2)", "h.reshape(-1, h.shape[-1] // 49, 7, 7)"),
    ],
    ("code/beyond/vae_family.py", "test_training"): [("family: worst epoch kept", "max(run.history, key=score) is run", "min(run.history, key=score) is run")],
    ("code/beyond/flow_2d.py", "test_flow_2d"): [
        ("flow_2d: divergence the other way round", "(log_p - log_q))", "(log_q - log_p))"),
        ("flow_2d: radius not in the density", "- torch.log(2 * math.pi * r[:, 0])", "- math.log(2 * math.pi)"),
    ],
    ("docs/page/net.js", "test_page"): [
        ("page: sign of high bytes", "const high = new Int8Array", "const high = new Uint8Array"),
        ("page: tanh instead of erf in GELU", "0.5 * x * (1 + erf(x * Math.SQRT1_2))", "0.5 * x * (1 + Math.tanh(x * Math.SQRT1_2))"),
        ("page: padding on the right only", "row * stride - padding + i * dilation", "row * stride + i * dilation"),
        ("page: waves transposed", "product(turned, half, null, m, n, m)", "product(half, turned, null, m, n, m)"),
        ("page: max of a window that starts at 0", ".fill(-Infinity)", ""),
    ],
    ("docs/page/models.js", "test_page"): [
        ("page: log-determinant of ActNorm once per image", "log_std.data.reduce((a, b) => a + b, 0) * data.length) / c", "log_std.data.reduce((a, b) => a + b, 0)) / 1"),
        ("page: inverse without exp(-scale)", "(data[i] - shift) * Math.exp(-scale)", "(data[i] - shift) * Math.exp(scale)"),
        ("page: row pixels before diagonal ones", "DIAGONAL_FIRST = [0, 3, 1, 2]", "DIAGONAL_FIRST = [0, 1, 2, 3]"),
        ("page: slope of the mixture lost", "logdet += scale + slope;", "logdet += scale;"),
        ("page: scale of logistics unbounded", "Math.max(-5, at(2 + 2 * n + k))", "at(2 + 2 * n + k)"),
        ("page: KL without log sigma", "(std[i] ** 2 + m ** 2 - 1) - Math.log(std[i])", "(std[i] ** 2 + m ** 2 - 1)"),
        ("page: rows of the PixelCNN off by one", "[this.past[i][row - dilation], v]", "[this.past[i][row - 1], v]"),
        ("page: code of the generator too short", "(i === code ? this.length : 0)", "(i === code ? 1 : 0)"),
    ],
    ("docs/page/draw.js", "test_page"): [
        ("page: drawing not centred", "Math.round(14 - massX / mass)", "4"),
        ("page: drawing fills the image", "bottom - top + 1) / 20;", "bottom - top + 1) / 28;"),
    ],
    ("docs/page/plane.js", "test_page"): [("page: plane upside down", "reach * (1 - 2 * y)", "reach * (2 * y - 1)")],
    ("code/study/export.py", "test_page"): [
        ("page: BatchNorm without its mean", "norm.bias - norm.running_mean * factor", "norm.bias"),
        ("page: kernels not turned around", "weight.transpose(0, 1).flip(2, 3)", "weight.transpose(0, 1)"),
        ("page: rounding errors stay", "weight[:, i:] -= torch.outer(", "weight[:, i:] -= 0 * torch.outer("),
    ],
    ("code/study/page.py", "test_page"): [("page: the user's models ignored", "path = models.find_model(run, registry.get(run).data, quick)", "models.find_model(run, registry.get(run).data, quick)")],
    ("report/macros.py", "test_report"): [
        ("report: gains with the wrong sign", 'result["final"]["test_log_likelihood"] - plain["final"]["test_log_likelihood"]', 'plain["final"]["test_log_likelihood"] - result["final"]["test_log_likelihood"]'),
        ("report: deviation of a population", "statistics.stdev(values)", "statistics.pstdev(values)"),
        ("report: below 1.85 one epoch too early", "1 + max((i for i", "0 + max((i for i"),
        ("report: share in as many dimensions", "per_dimension**20", "per_dimension**2"),
    ],
}  # fmt: skip
FAULTS = [(name, file, old, new, tests.split()) for (file, tests), group in GROUPS.items() for name, old, new in group]


def run_tests(folder, tests, log):
    """In a process of its own, with the modules above imported already."""
    os.setpgrp()
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    packages = str(Path(pytest.__file__).parents[1])  # often in .venv/, which is part of the checkout
    sys.path[:] = [path for path in sys.path if path == packages or not path.startswith(str(ROOT))]
    sys.dont_write_bytecode = True
    os._exit(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *(f"tests/{t}.py" for t in tests)]))


def passed(folder, tests, log, longest=LONGEST):
    """Whether the tests pass there; one that hangs does not."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(str(folder), tests, str(log)))
    process.start()
    process.join(longest)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == 0


def start_worker(temporary):
    """In each process: its own copy of the checkout, and one thread, because there is a process for each core."""
    global folder
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=temporary))
    for part in PARTS:
        target = folder / part
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target, ignore=shutil.ignore_patterns("__pycache__", "build"))
        else:
            shutil.copyfile(ROOT / part, target)


def without_fault(tests):
    """What these tests print if they fail although the code has no fault."""
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    return "" if passed(folder, tests, log, 10 * LONGEST) else log.read_text()[-2000:]


def with_fault(fault):
    """(name, whether the tests notice the fault, seconds)."""
    name, file, old, new, tests = fault
    original, start = (folder / file).read_text(), time.monotonic()
    (folder / file).write_text(original.replace(old, new))
    noticed = not passed(folder, tests, folder / "log.txt")
    (folder / file).write_text(original)
    return name, noticed, time.monotonic() - start


def main(words):
    chosen = [fault for fault in FAULTS if not words or any(word in fault[0] for word in words)]
    if not chosen:
        print("no fault has such a name:", *words)
        return 1
    broken = [name for name, file, old, *_ in chosen if (ROOT / file).read_text().count(old) != 1]
    if broken:
        print("the old text is not found exactly once:", "; ".join(broken))
        return 1
    test_files = sorted({test for *_, tests in chosen for test in tests})
    caught, fork = 0, multiprocessing.get_context("fork")
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as temporary,
        concurrent.futures.ProcessPoolExecutor(os.cpu_count(), fork, start_worker, (temporary,)) as pool,
    ):
        for log in pool.map(without_fault, [[test] for test in test_files]):
            if log:
                print("these tests fail without any fault:", log)
                return 1
        for future in concurrent.futures.as_completed([pool.submit(with_fault, fault) for fault in chosen]):
            name, noticed, seconds = future.result()
            caught += noticed
            print(f"{'caught' if noticed else 'MISSED'}  {seconds:5.1f} s  {name}", flush=True)
    print(f"{caught} of {len(chosen)} caught")
    return caught < ENOUGH * len(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""
5. Formats, loss scaling and AMP
================================

The notebook's subject. FP16 has small numbers down to 6e-8 only, and BF16 two to three digits. We see what that does
to a gradient, how a scaled loss saves it, how the scale finds its value step by step, and what remains of the
difference in a training.

The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.
"""

import torch
from matplotlib.figure import Figure

import tilewright as tw

training = tw.training
print(training.formats())

# %%
# Range comes from the exponent's bits, 8 in FP32 and BF16, 5 in FP16. So 70000 is infinite in FP16, and 1e-15 is zero.
# Roundoff comes from those of the mantissa: 23 in FP32, 10 in FP16, 7 in BF16. Hence what each is for: FP32 for weights
# and sums, FP16 for products of a scaled loss, BF16 for products without scaling.
#
# Gradients are small. Here one of 1e-5 is multiplied by itself on its way back through three layers:

print(training.scaling())

# %%
# In FP16 the product is zero: *underflow*. If the loss is multiplied by a scale before the backward pass, so is
# every gradient. The scale must be divided out in FP32, as in FP16 the small number would vanish again.
#
# The scaler, step by step
# ------------------------
#
# Which scale? The largest that does not overflow, and that changes in the course of a training. So there is a rule. A
# step whose gradients are not finite is *skipped*, and the scale is multiplied by ``backoff_factor``. After
# ``growth_interval`` good steps in a row it is multiplied by ``growth_factor``. Beside it, torch's ``GradScaler`` gets
# the same gradients:

scaler = training.LossScaler(scale=2.0**16, growth_interval=3)
theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
weight = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([weight], lr=1.0)
theirs.scale(torch.zeros(1))  # it makes its state when it is first used
print("step  gradient     scale before  what happens                scale after  good steps in a row")
for step, finite in enumerate([False, False, True, True, True, True, False, True, True, True]):
    before, moved = scaler.scale, weight.item()
    weight.grad = torch.tensor([before if finite else float("inf")])  # a gradient of 1, scaled
    theirs.step(optimizer)  # unscales; skips the step if something is not finite
    theirs.update()
    scaler.update(found_inf=not finite)
    assert scaler.scale == theirs.get_scale() and weight.item() == moved - finite
    did = "skipped, back off" if not finite else "taken, grow" if scaler.scale > before else "taken"
    kind = "finite" if finite else "infinite"
    print(f"{step:4}  {kind:9} {before:15g}  {did:25} {scaler.scale:13g}  {scaler.growth_tracker}")
assert scaler.state_dict() == theirs.state_dict()

# %%
# The scale may end above where it began, it may oscillate around the limit, and one step in ``growth_interval`` may be
# lost to trying. The default interval is 2000.
#
# In a training
# -------------
#
# *AMP*, automatic mixed precision: weights and the loss in FP32, products of the forward pass in 16 bits. In FP16 the
# loss is scaled. We begin with a scale that is far too large, and let it grow after 20 good steps, to see it move. BF16
# has the range of FP32 and needs no scale.

train, test = training.data.digits()


def fit(precision, **settings):
    torch.manual_seed(0)
    return training.fit(training.models.MLP(), train, test, epochs=4, precision=precision, threads=1, **settings)


results = {"fp32": fit("fp32"), "bf16": fit("bf16")}
results["fp16"] = fit("fp16", scaler=training.LossScaler(scale=2.0**24, growth_interval=20))
for name, result in results.items():
    print(f"{name}: accuracy {result.test_accuracy:.3f}, {result.skipped_steps} of {len(result.steps)} steps skipped")
    assert result.test_accuracy > 0.9
assert results["fp16"].skipped_steps > 1 and results["bf16"].skipped_steps == results["fp32"].skipped_steps == 0

figure = Figure(figsize=(7, 4))
axes = figure.subplots()
steps = results["fp16"].steps
axes.semilogy([row["scale"] for row in steps], base=2, drawstyle="steps-post", label="loss scale")
skipped = [number for number, row in enumerate(steps) if row["skipped"]]
axes.plot(skipped, [steps[number]["scale"] for number in skipped], "x", color="red", label="step skipped")
axes.set(xlabel="step", title="The loss scale of a training in FP16")
axes.legend()
figure.savefig("scale.png")

# %%
# Exercises
# ---------
#
# 1. Why do the weights stay in FP32? Add 1e-4 to a weight of 1, a thousand times, in each format.
# 2. Which powers of two are good scales for gradients between 1e-9 and 1e-3? The smallest must become a normal
#    number of FP16, the largest must stay finite.
# 3. The notebook's exercise: a training that falls back to FP32 if more than 10 % of its steps were skipped. Which
#    first scale makes it do so, and how does the training go on?

# %%
# Answers
# -------
#
# 1. Next to 1 the gap between numbers is 1e-3 in FP16 and 8e-3 in BF16. An update of less than half of it is rounded
#    away, each time.

for dtype in (torch.float32, torch.float16, torch.bfloat16):
    weight = torch.ones((), dtype=dtype)
    for _ in range(1000):
        weight += 1e-4
    print(f"{dtype!s:15} {weight.item():.4f}")
    assert weight.item() == 1 or dtype == torch.float32

# %%
# 2. From 2^16 (1e-9 times that is just above 6.1e-5) to 2^25 (1e-3 times that is 33554): nine doublings to choose from.

half = torch.finfo(torch.float16)
good = [k for k in range(40) if 1e-9 * 2**k >= half.tiny and torch.tensor(1e-3 * 2**k).half().isfinite()]
print(f"2^{good[0]} to 2^{good[-1]}")
assert (good[0], good[-1]) == (16, 25)

# %%
# 3. With a first scale of 2^24 the first step overflows, and 1 of 1 is more than 10 %. So the exercise, taken
#    literally, falls at once and goes on in FP32. That is harsh, as a scale is meant to find its value: the other rule
#    forgives up to 16 skipped steps before the first good one.

for rule in ("literal", "robust"):
    fallback = training.Fallback(("fp16", "fp32"), mode=rule)
    result = fit("adaptive", scaler=training.LossScaler(scale=2.0**24), fallback=fallback)
    print(f"{rule}: {result.skipped_steps} skipped, accuracy {result.test_accuracy:.3f}", *result.events, sep="\n    ")
    assert result.test_accuracy > 0.9 and result.fallbacks == (rule == "literal")

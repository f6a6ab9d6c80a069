from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tests.unit.scoring.models as models
from scoring.errors import InputError
from scoring.probes import Probe
from scoring.rendering.components import Components
from scoring.rendering.conditioning import Conditioner, Form
from scoring.rendering.passes import passes
from scoring.rendering.renderer import Renderer
from scoring.rendering.text_encoder import TextEncoder
from tests.unit.scoring.diffusers_samplers import first_noise, make_scheduler, seeded

TOLERANCE = 1e-4
CPU = torch.device("cpu")
CAT, COMMA, RED, START, END = 2368, 267, 736, 49406, 49407


@cache
def model(name: str) -> Components:
    components: Components = getattr(models, name)()
    if name == "sd2":  # as optimizer.checkpoints.tokenizer makes it
        models.clip_tokenizer.cache_clear()
        components.tokenizer = models.clip_tokenizer()
        models.clip_tokenizer.cache_clear()
        components.tokenizer.pad_token = "!"
    with torch.no_grad():  # so that there is a mean to restore
        components.text_encoder.final_layer_norm.bias += 0.1
    return components


def probe(**fields: Any) -> Probe:
    return Probe(
        **{"sampler": "Euler", "prompt": "a cat", "seed": 1, "steps": 3, "width": 32, "height": 32, **fields}
    )


def states_of(text: str, name: str = "sd1", clip_skip: int = 1, **options: Any) -> Tensor:
    encoder = TextEncoder(model(name), CPU, **options)
    encoder.check(text, clip_skip)
    encoder.encode([(text, clip_skip)])
    return encoder.states(text, clip_skip)


def model_states(ids: Sequence[int], name: str = "sd1") -> Tensor:
    with torch.no_grad():
        states: Tensor = model(name).text_encoder(torch.tensor([list(ids)])).last_hidden_state[0]
    return states


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# ---- texts to states


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("text", ["", "a cat, don't!", "cat " * 75, r"a \(red\) cat"])
def test_a_text_of_one_chunk_is_what_tokenizer_and_model_make_of_it(name: str, text: str) -> None:
    plain = text.replace("\\", "")
    ids = model(name).tokenizer(plain, padding="max_length", max_length=77).input_ids
    assert torch.equal(states_of(text, name), model_states(ids, name))


def test_long_texts_are_chunks_in_a_row_each_with_its_marks_and_padding() -> None:
    for name, pad in (("sd1", END), ("sd2", 0)):
        states = states_of("cat " * 74 + "red " * 2 + "BREAK cat", name)
        first = model_states([START, *[CAT] * 74, RED, END], name)
        second = model_states([START, RED, END, *[pad] * 74], name)
        third = model_states([START, CAT, END, *[pad] * 74], name)
        assert difference(states, torch.cat([first, second, third])) <= 1e-6


def test_vectors_are_multiplied_by_their_weight_and_the_mean_restored() -> None:
    plain = model_states([START, CAT, RED, COMMA, CAT, *[END] * 72]).double()
    weights = torch.ones(77, 1, dtype=torch.float64)
    weights[1:5, 0] = torch.tensor([1.5, 0, 1, -0.5], dtype=torch.float64)
    weighted = plain * weights
    wanted = weighted * plain.mean() / weighted.mean()
    states = states_of("(cat:1.5) (red:0), (cat:-0.5)")
    assert difference(states, wanted.float()) <= 1e-5
    assert float(states.mean()) == pytest.approx(float(plain.mean()), rel=1e-4)
    assert difference(states, plain.float()) > 0.1


def test_without_a_mean_there_is_none_to_restore() -> None:
    encoder = TextEncoder(models.sd1(), CPU)
    encoder.encode([("cat", 1), ("(cat:1.5)", 1)])
    plain, weighted = encoder.states("cat", 1), encoder.states("(cat:1.5)", 1)
    assert abs(float(plain.mean())) < 1e-7
    assert difference(weighted[1], plain[1] * 1.5) <= 1e-6
    assert torch.equal(weighted[2:], plain[2:])


def test_the_mean_is_that_of_each_chunk() -> None:
    states = states_of("(cat:3) BREAK red")
    assert float(states[:77].mean()) == pytest.approx(float(states_of("cat").mean()), rel=1e-4)
    assert torch.equal(states[77:], states_of("red"))


@pytest.mark.parametrize("clip_skip", [2, 3])
def test_clip_skip_reads_a_deeper_layer_and_norms_it(clip_skip: int) -> None:
    encoder = model("sd1").text_encoder
    with torch.no_grad():
        layers = encoder(torch.tensor([[START, CAT, *[END] * 75]]), output_hidden_states=True).hidden_states
        plain = encoder.final_layer_norm(layers[-clip_skip])[0]
    assert difference(states_of("cat", clip_skip=clip_skip), plain) <= 1e-6
    weighted = plain.clone()
    weighted[1] *= 1.1
    wanted = weighted * plain.mean() / weighted.mean()
    assert difference(states_of("(cat)", clip_skip=clip_skip), wanted) <= 1e-5


def test_weights_beyond_all_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"prompt '\(cat:9{50}.* has weights that leave no finite number"):
        states_of(f"(cat:{'9' * 400})")
    assert states_of("(cat:1e400)").isfinite().all()


def test_what_is_encoded_once_is_not_encoded_again() -> None:
    encoder = TextEncoder(model("sd1"), CPU)
    calls: list[int] = []
    hook = model("sd1").text_encoder.register_forward_hook(
        lambda _m, inputs, _o: calls.append(len(inputs[0]))
    )
    encoder.encode([("a", 1), ("b", 1), ("a", 1), ("a BREAK b", 1)])
    encoder.encode([("b", 1)])
    hook.remove()
    assert calls == [4]


def test_states_can_be_used_with_gradients_whatever_the_mode_they_were_made_in() -> None:
    encoder = TextEncoder(model("sd1"), CPU)
    with torch.inference_mode():
        encoder.encode([("(cat:1.2) BREAK red", 1)])
    states = encoder.states("(cat:1.2) BREAK red", 1)
    assert not states.is_inference()
    (torch.ones(1, requires_grad=True) * states).sum().backward()


def test_an_embedding_of_a_words_own_vectors_says_that_word(tmp_path: Path) -> None:
    known = model("sd1").text_encoder.get_input_embeddings().weight
    save_file({"emb_params": known[[RED, CAT]].detach().clone()}, tmp_path / "pet.safetensors")
    said = states_of("a Pet, (pet:1.3)", embeddings=tmp_path)
    assert torch.equal(said, states_of("a red cat, (red cat:1.3)"))
    assert difference(said, states_of("a Pet, (pet:1.3)")) > 0.1
    # and the model is as it was
    assert torch.equal(states_of("a cat"), model_states([START, 320, CAT, *[END] * 74]))


def test_an_embedding_of_another_architecture_is_refused_before_the_first_image(tmp_path: Path) -> None:
    save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / "pet.safetensors")
    renderer = Renderer(model("sd1"), "cpu", embeddings=tmp_path)
    with pytest.raises(InputError, match=r"pet\.safetensors has vectors 768 wide, .* text encoder 16"):
        renderer.render([probe(prompt="[a:a pet:0.5]")])
    with pytest.raises(InputError, match="no such folder of embeddings"):
        Renderer(model("sd1"), "cpu", embeddings=tmp_path / "none")


# ---- probes to what the UNet sees

Said = Callable[[int], tuple[Tensor | None, list[tuple[float, Tensor]]]]
"""The call, counted from 0 -> the states of the negative prompt, and weight and states of each part."""


def by_hand(wanted: Probe, said: Said, name: str = "sd1") -> Tensor:
    """The image that A1111's formula gives: every text alone, one call of the UNet after the other."""
    components = model(name)
    scheduler = make_scheduler(wanted.sampler, components)
    scheduler.set_timesteps(wanted.steps)
    noise, _ = seeded(wanted.seed, (1, 4, wanted.height // 8, wanted.width // 8))
    x = first_noise(wanted.sampler, scheduler, noise) * scheduler.init_noise_sigma
    unet: Any = components.unet
    vae: Any = components.vae
    with torch.no_grad():
        for call, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t)

            def predict(states: Tensor, scaled: Tensor = scaled, t: Tensor = t) -> Tensor:
                prediction: Tensor = unet(scaled, t, encoder_hidden_states=states[None]).sample
                return prediction

            negative, parts = said(call)
            if negative is None:
                ((_, states),) = parts
                predicted = predict(states)
            else:
                away = predict(negative)
                predicted = away.clone()
                for weight, states in parts:
                    predicted += (predict(states) - away) * (weight * wanted.cfg_scale)
            x = scheduler.step(predicted, t, x, return_dict=False)[0]
        image: Tensor = vae.decode(x / vae.config.scaling_factor).sample[0]
    return (image / 2 + 0.5).clamp(0, 1)


def images(probes: Sequence[Probe], name: str = "sd1", **options: Any) -> list[Tensor]:
    rendered: dict[int, Tensor] = {}
    with torch.no_grad():
        for indices, batch in Renderer(model(name), "cpu", **options).render(probes):
            rendered.update(zip(indices, batch, strict=True))
    return [rendered[i] for i in range(len(probes))]


def image(name: str = "sd1", **fields: Any) -> Tensor:
    return images([probe(**fields)], name)[0]


def constant(negative: Tensor | None, *parts: tuple[float, Tensor]) -> Said:
    return lambda call: (negative, list(parts))


def test_parts_each_pull_with_their_weight() -> None:
    wanted = probe(prompt="a cat :1.5 AND a dog AND a hat :-0.5", negative_prompt="rain", cfg_scale=4)
    said = constant(
        states_of("rain"),
        (1.5, states_of("a cat")),
        (1, states_of("a dog")),
        (-0.5, states_of("a hat")),
    )
    for name in ("sd1", "sd2"):
        encoded = (
            said
            if name == "sd1"
            else constant(
                states_of("rain", name),
                (1.5, states_of("a cat", name)),
                (1, states_of("a dog", name)),
                (-0.5, states_of("a hat", name)),
            )
        )
        assert difference(images([wanted], name)[0], by_hand(wanted, encoded, name)) <= TOLERANCE
    assert (
        difference(images([wanted])[0], image(prompt="a cat", negative_prompt="rain", cfg_scale=4))
        > TOLERANCE
    )


def test_half_a_pull_twice_is_one_and_a_weight_is_guidance() -> None:
    plain = image(cfg_scale=6)
    assert difference(image(prompt="a cat :0.5 AND a cat :0.5", cfg_scale=6), plain) <= TOLERANCE
    assert difference(image(prompt="a cat :2", cfg_scale=3), plain) <= TOLERANCE
    assert difference(image(prompt="a cat :6", cfg_scale=1), plain) <= TOLERANCE
    assert difference(image(prompt="a cat AND a dog :0", cfg_scale=6), plain) <= TOLERANCE
    assert torch.equal(image(prompt="a cat :1", cfg_scale=6), plain)


def test_a_negative_prompt_knows_no_and() -> None:
    wanted = probe(negative_prompt="rain AND fog")
    said = constant(states_of("rain AND fog"), (1, states_of("a cat")))
    assert difference(images([wanted])[0], by_hand(wanted, said)) <= TOLERANCE


def test_without_guidance_one_text_is_seen() -> None:
    assert (
        difference(
            image(prompt="(a cat:1.3)", negative_prompt="x", cfg_scale=1),
            by_hand(probe(cfg_scale=1), constant(None, (1, states_of("(a cat:1.3)")))),
        )
        <= TOLERANCE
    )
    assert (
        difference(
            image(prompt="x AND y", negative_prompt="[a cat::1]", cfg_scale=0),
            by_hand(probe(), lambda call: (None, [(1, states_of("a cat" if call <= 1 else ""))])),
        )
        <= TOLERANCE
    )


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler"])
def test_prompts_change_between_the_steps(sampler: str) -> None:
    wanted = probe(prompt="a [cat:dog:2]", negative_prompt="[:rain:0.25]", steps=5, sampler=sampler)

    def said(call: int) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        # until step 2: the calls 0, 1, 2; a quarter of 5 steps is 1: the calls 0, 1
        return states_of("" if call <= 1 else "rain"), [(1, states_of("a cat" if call <= 2 else "a dog"))]

    assert difference(images([wanted])[0], by_hand(wanted, said)) <= TOLERANCE
    assert difference(images([wanted])[0], image(steps=5, sampler=sampler)) > TOLERANCE


def test_samplers_of_second_order_are_counted_by_their_calls() -> None:
    wanted = probe(prompt="[cat:dog:0.5]", sampler="Heun", steps=4)
    # half of 2 x 4 calls: the calls 0 to 4 of the 7 that there are
    said: Said = lambda call: (states_of(""), [(1, states_of("cat" if call <= 4 else "dog"))])  # noqa: E731
    assert difference(images([wanted])[0], by_hand(wanted, said)) <= TOLERANCE


def test_alternation_in_a_part() -> None:
    wanted = probe(prompt="[cat|dog] AND hat :0.5", steps=4)

    def said(call: int) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        first = ["cat", "cat", "dog", "cat"][call]
        return states_of(""), [(1, states_of(first)), (0.5, states_of("hat"))]

    assert difference(images([wanted])[0], by_hand(wanted, said)) <= TOLERANCE


def test_texts_of_different_length_are_not_filled_up_for_each_other() -> None:
    wanted = probe(prompt="cat " * 80, negative_prompt="rain")
    said = constant(states_of("rain"), (1, states_of("cat " * 80)))
    assert difference(images([wanted])[0], by_hand(wanted, said)) <= TOLERANCE
    other = probe(prompt="a cat", negative_prompt="rain BREAK fog BREAK sea")
    said = constant(states_of("rain BREAK fog BREAK sea"), (1, states_of("a cat")))
    assert difference(images([other])[0], by_hand(other, said)) <= TOLERANCE


def test_stages_are_filled_up_with_empty_chunks_and_parts_with_their_last_state() -> None:
    wanted = probe(prompt="[cat BREAK hat:dog:1] AND red BREAK red BREAK red")
    three = states_of("red BREAK red BREAK red")

    def said(call: int) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        first = states_of("cat BREAK hat") if call <= 1 else torch.cat([states_of("dog"), states_of("")])
        assert first.shape == (154, 16)
        return states_of(""), [(1, torch.cat([first, first[-1:].expand(77, -1)])), (1, three)]

    assert difference(images([wanted])[0], by_hand(wanted, said)) <= TOLERANCE


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({}, Form(1, 77, 77)),
        ({"cfg_scale": 1}, Form(1, 77, 0)),
        ({"cfg_scale": 0, "prompt": "a AND b"}, Form(1, 77, 0)),
        ({"cfg_scale": 1, "prompt": "a AND b"}, Form(2, 77, 77)),
        ({"cfg_scale": 1, "prompt": "a :2"}, Form(1, 77, 77)),
        ({"prompt": "[a:b BREAK c:2] AND d", "negative_prompt": "x BREAK y BREAK z"}, Form(2, 154, 231)),
    ],
)
def test_the_form_of_a_probe(fields: dict[str, Any], form: Form) -> None:
    assert Conditioner(model("sd1"), CPU).form(passes(probe(**fields), 8)[0]) == form


def test_probes_of_one_form_share_a_batch_and_no_image_depends_on_it() -> None:
    probes = [
        probe(prompt="[cat|dog]", steps=4),
        probe(prompt="a [red:blue:0.5] hat", negative_prompt="(rain:1.3)", steps=4, seed=2),
        probe(prompt="cat AND dog", steps=4),
        probe(prompt="cat :0.3 AND [dog:fox:2]", steps=4, seed=3, cfg_scale=3),
        probe(prompt="cat BREAK dog", steps=4),
        probe(prompt="plain", steps=4, clip_skip=2),
    ]
    with torch.no_grad():
        batches = [indices for indices, _ in Renderer(model("sd1"), "cpu").render(probes)]
    assert batches == [[0, 1, 5], [2, 3], [4]]
    for together, alone in zip(images(probes), images(probes, max_batch=1), strict=True):
        assert difference(together, alone) <= TOLERANCE


def test_a_composed_and_edited_prompt_has_a_gradient() -> None:
    components = models.sd1()
    weight = components.unet.conv_in.weight
    assert weight.requires_grad
    ((_, rendered),) = Renderer(components, "cpu").render([probe(prompt="(a:0) [b:c:1] AND d BREAK e :0.5")])
    (slope,) = torch.autograd.grad(rendered.mean(), weight)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


def test_prompts_of_the_astolfomix_article_are_rendered() -> None:
    article = {
        "prompt": "(aesthetic:0), (quality:0), (anime:0), (solo:0), (boy:0), [niqab], [[hijab]], [astolfo], "
        "[[afghanistan]]",
        "negative_prompt": "(worst:0), (low:0), (bad:0), (exceptional:0), (masterpiece:0), (comic:0), "
        "(extra:0), (lowres:0), (photorealisitc:0)",
    }
    weighted = image("sd2", cfg_scale=6, **article)
    without = {key: text.translate(str.maketrans("", "", "()[]:0")) for key, text in article.items()}
    assert difference(weighted, image("sd2", cfg_scale=6, **without)) > TOLERANCE

"""Empty slots mean nothing to the layers, and NaN in them reach no gradient."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.training import layers
from hepdask_ml.training.layers import POOLINGS, flattened, mlp

torch: Any = pytest.importorskip("torch")

FIELDS, LATENT = 3, 5
LENGTHS = st.lists(st.integers(0, 4), min_size=1, max_size=6)

few = settings(max_examples=30, deadline=None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def padded(lengths: list[int], slots: int, seed: int = 1) -> tuple[Any, Any]:
    """Items with NaN in empty slots, and their mask; the items do not depend on the slots."""
    x = torch.full((len(lengths), slots, FIELDS), torch.nan, dtype=torch.float64)
    for event, length in enumerate(lengths):
        rng = np.random.default_rng([seed, event])
        x[event, :length] = torch.from_numpy(rng.normal(size=(length, FIELDS)))
    return x, torch.arange(slots) < torch.tensor(lengths)[:, None]


def deep_sets(pooling: str) -> Any:
    torch.manual_seed(7)
    return layers.DeepSets(mlp(FIELDS, LATENT, (8,)), mlp(LATENT, 2, (8,)), pooling).double()


def gradients(model: Any) -> list[Any]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_a_linear_layer_without_empty_slots_is_that_of_torch() -> None:
    x, mask = padded([3, 3], 3)
    layer = layers.MaskedLinear(FIELDS, LATENT).double()
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x, mask), expected)
    assert torch.equal(layer(x), expected)


def test_a_masked_item_is_zero_without_the_bias() -> None:
    x, mask = padded([1, 0], 2)
    layer = layers.MaskedLinear(FIELDS, LATENT).double()
    assert torch.equal(layer(x, mask)[~mask], torch.zeros((3, LATENT), dtype=torch.float64))
    assert (layer(x, mask)[mask] != 0).all()


def test_a_missing_number_counts_as_nothing() -> None:
    layer = layers.MaskedLinear(2, 1)
    x = torch.tensor([[1.5, torch.nan]])
    expected = layer.weight[0, 0] * 1.5 + layer.bias
    assert torch.allclose(layer(x)[0], expected)
    assert torch.allclose(layer(x, ~torch.isnan(x))[0], expected)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"the mask is of shape \(4,\), and the numbers"):
        layers.MaskedLinear(2, 1)(torch.zeros(3, 2), torch.ones(4, dtype=bool))


@few
@given(LENGTHS, st.sampled_from([torch.nan, torch.inf, 1e300]), st.sampled_from(POOLINGS))
def test_what_stands_in_empty_slots_reaches_no_gradient(
    lengths: list[int], filling: float, pooling: str
) -> None:
    x, mask = padded(lengths, 5)
    found = []
    for value in (filling, 0.0):
        model = deep_sets(pooling)
        given_x = torch.where(mask[..., None], x, torch.tensor(value, dtype=x.dtype))
        given_x.requires_grad_()
        model(given_x, mask).square().sum().backward()
        found.append([*gradients(model), given_x.grad])
    for one, other in zip(*found, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)
    assert (found[0][-1][~mask] == 0).all()


@few
@given(LENGTHS, st.sampled_from(POOLINGS), st.integers(0, 3), st.randoms(use_true_random=False))
def test_order_and_empty_slots_mean_nothing_to_a_set(
    lengths: list[int], pooling: str, more: int, random: Any
) -> None:
    x, mask = padded(lengths, 4)
    model = deep_sets(pooling)
    expected = model(x, mask)
    assert torch.isfinite(expected).all()
    permutation = random.sample(range(4), 4)
    torch.testing.assert_close(model(x[:, permutation], mask[:, permutation]), expected)
    wider, wider_mask = padded(lengths, 4 + more)
    torch.testing.assert_close(model(wider, wider_mask), expected)
    torch.testing.assert_close(model(wider), expected)


@few
@given(LENGTHS, st.randoms(use_true_random=False))
def test_permuted_items_are_permuted_by_a_layer_of_items(lengths: list[int], random: Any) -> None:
    x, mask = padded(lengths, 4)
    layer = layers.MaskedLinear(FIELDS, LATENT).double()
    permutation = random.sample(range(4), 4)
    torch.testing.assert_close(
        layer(x[:, permutation], mask[:, permutation]), layer(x, mask)[:, permutation]
    )


@few
@given(LENGTHS, st.sampled_from(POOLINGS))
def test_ragged_items_give_what_padded_ones_give(lengths: list[int], pooling: str) -> None:
    x, mask = padded(lengths, 4)
    model = deep_sets(pooling)
    model(x, mask).square().sum().backward()
    expected, expected_gradients = model(x, mask), gradients(model)
    offsets = torch.cumsum(torch.tensor([0, *lengths]), 0)
    model.zero_grad()
    found = model(x[mask], offsets=offsets)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    torch.testing.assert_close(gradients(model), expected_gradients)
    if sum(lengths):
        nested = torch.nested.nested_tensor_from_jagged(x[mask], offsets)
        torch.testing.assert_close(model(nested), expected)


def test_an_event_without_items_pools_to_zero() -> None:
    x, mask = padded([0, 2], 3)
    for pooling in POOLINGS:
        model = deep_sets(pooling)
        nothing = model.rho(torch.zeros((1, LATENT), dtype=torch.float64))
        torch.testing.assert_close(model(x, mask)[:1], nothing)


def test_another_pooling_is_refused() -> None:
    with pytest.raises(InputError, match="pooling is 'median': it may be sum, mean, max"):
        deep_sets("median")


def test_events_as_rows_train_a_network() -> None:
    items, mask = padded([2, 0, 4], 4)
    met = torch.tensor([[30.0], [torch.nan], [50.0]], dtype=torch.float64)
    batch = {"inputs": {"event": met, "jets": items}, "masks": {"jets": mask}}
    x, known = flattened(batch)
    assert x.shape == known.shape == (3, 1 + 4 * FIELDS)
    assert known.sum(1).tolist() == [1 + 2 * FIELDS, 0, 1 + 4 * FIELDS]
    model = mlp(x.shape[1], 1, (8,), dropout=0.5).double()
    model(x, known).sum().backward()
    assert all(torch.isfinite(each).all() for each in gradients(model))


def test_events_of_ragged_groups_have_no_rows() -> None:
    with pytest.raises(InputError, match='group "tracks" is ragged: pad it, or give it to DeepS'):
        flattened({"inputs": {"tracks": torch.zeros(2, 1)}, "offsets": {"tracks": [0, 2]}})
    with pytest.raises(InputError, match="the batch has no inputs"):
        flattened({"inputs": {}})


def test_a_network_of_no_units_is_refused() -> None:
    with pytest.raises(InputError, match="layers of 3, 0, 1 units is none"):
        mlp(3, widths=(0,))


def test_models_are_saved_whole() -> None:
    model = deep_sets("mean")
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    x, mask = padded([2, 1], 3)
    assert torch.equal(again(x, mask), model(x, mask))
    assert "pooling='mean'" in repr(again)


def test_names_are_those_of_the_module() -> None:
    assert {"MaskedLinear", "DeepSets", "mlp"} <= set(dir(layers))
    with pytest.raises(AttributeError, match="has no attribute 'Dense'"):
        _ = layers.Dense


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    layers._mlp.cache_clear()
    with pytest.raises(InputError, match=r"install hepdask-ml\[train\]"):
        mlp(3)

"""Compiled models are pyhf's models: order, settings, data, rates and likelihoods."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import ARCHIVE, MADE_UP, MU, correlated, factor, one_bin, published, sample, workspace
from strategies import rounding, workspaces

from hepdask_ml import InputError, compile_model
from hepdask_ml.likelihood.rates import expected_data, twice_nll

if TYPE_CHECKING:
    from hepdask_ml import CompiledModel

CODES = [
    {"normsys": {"interpcode": norm}, "histosys": {"interpcode": shape}}
    for norm in ("code1", "code4")
    for shape in ("code0", "code2", "code4p")
]


def pyhf_model(spec: dict[str, Any], **options: Any) -> tuple[pyhf.Model, np.ndarray[Any, Any]]:
    source = pyhf.Workspace(spec)
    poi = spec["measurements"][0]["config"]["poi"] or None
    model = source.model(poi_name=poi, **options)
    return model, np.array(source.data(model), float)


def random_pars(model: CompiledModel, rng: np.random.Generator, n: int) -> Any:
    """Points around the start, some of them where the interpolations change their form."""
    pars = model.init + rng.normal(0.0, 1.5, (n, model.n_pars)) * np.where(
        model.constraint == 1, model.sigma, 0.3
    )
    pars[: n // 4] = np.round(pars[: n // 4])
    return np.clip(pars, np.maximum(model.lower, -4.0), model.upper)


def assert_same(model: CompiledModel, theirs: pyhf.Model, data: Any) -> None:
    config = theirs.config
    assert model.par_names == tuple(config.par_names)
    assert model.poi_name == config.poi_name
    assert model.init.tolist() == list(config.suggested_init())
    assert list(zip(model.lower, model.upper, strict=True)) == [
        tuple(pair) for pair in config.suggested_bounds()
    ]
    assert model.fixed.tolist() == list(config.suggested_fixed())
    np.testing.assert_array_equal(model.data, data)
    pars = random_pars(model, np.random.default_rng(1), 12)
    # Both sum the same few hundred doubles, in another order: 1e-12 leaves room for that alone.
    # A rate near zero is a difference of large ones, hence the absolute part.
    expected = np.array([theirs.expected_data(row) for row in pars])
    np.testing.assert_allclose(
        expected_data(model, pars), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max()
    )
    with np.errstate(all="ignore"):
        nll = np.array([-2.0 * theirs.logpdf(row, data)[0] for row in pars])
    defined = np.isfinite(nll) & (expected[:, : model.n_main] > 1e-3).all(axis=1)
    np.testing.assert_allclose(
        twice_nll(model, pars[defined], data), nll[defined], rtol=1e-12, atol=rounding(data)
    )


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(spec=workspaces(), codes=st.sampled_from(CODES))
def test_random_workspaces_compile_to_pyhfs_model(spec: Any, codes: Any) -> None:
    theirs, data = pyhf_model(spec, modifier_settings=codes)
    assert_same(compile_model(spec, modifier_settings=codes), theirs, data)


@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_workspaces_compile_to_pyhfs_model(name: str) -> None:
    theirs, data = pyhf_model(MADE_UP[name])
    assert_same(compile_model(MADE_UP[name]), theirs, data)


@published
def test_published_workspaces_compile_to_pyhfs_model(path: Path) -> None:
    theirs, data = pyhf_model(json.loads(path.read_text()))
    assert_same(compile_model(path), theirs, data)


@pytest.mark.real_data
@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"{ARCHIVE} is not there")
@pytest.mark.parametrize("region", ["A", "B", "C"])
def test_patches_and_patchsets_give_pyhfs_models(region: str, tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        names = sorted(n for n in archive.getnames() if n.startswith(f"Region{region}/"))
        wanted = [archive.getmember(name) for name in (names[0], names[1], names[-1])]
        archive.extractall(tmp_path, wanted, filter="data")
    background = tmp_path / names[0]
    files = {"first": tmp_path / names[1], "last": tmp_path / names[-1]}
    patchset = {
        "metadata": {
            "name": "signals",
            "description": "two signals",
            "references": {"hepdata": "ins1748602"},
            "digests": {"sha256": pyhf.utils.digest(json.loads(background.read_text()))},
            "labels": ["place"],
        },
        "patches": [
            {"metadata": {"name": point, "values": [i]}, "patch": json.loads(file.read_text())}
            for i, (point, file) in enumerate(files.items())
        ],
        "version": "1.0.0",
    }
    (tmp_path / "patchset.json").write_text(json.dumps(patchset))
    for point, file in files.items():
        model = compile_model(background, patch=f"{tmp_path / 'patchset.json'}:{point}")
        assert model.digest == compile_model(background, patch=file).digest
        operations = json.loads(file.read_text())
        assert model.digest == compile_model(background, patch=operations).digest
        spec = pyhf.PatchSet(patchset).apply(json.loads(background.read_text()), point)
        theirs, data = pyhf_model(spec)
        assert_same(model, theirs, data)


def test_every_kind_of_source_gives_the_same_model(tmp_path: Path) -> None:
    spec = correlated()
    plain = tmp_path / "workspace.json"
    plain.write_text(json.dumps(spec))
    packed = tmp_path / "workspace.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(spec).encode()))
    theirs, data = pyhf_model(spec)
    sources = [spec, plain, str(plain), packed, plain.as_uri(), pyhf.Workspace(spec)]
    digests = {compile_model(source).digest for source in sources}
    digests.add(compile_model(theirs, data=data).digest)
    digests.add(compile_model(compile_model(spec)).digest)
    assert len(digests) == 1


def test_another_poi_can_be_chosen_or_none() -> None:
    assert compile_model(one_bin(), poi="sys").poi_name == "sys"
    assert compile_model(compile_model(one_bin()), poi="sys").poi_name == "sys"
    assert compile_model(one_bin(), poi="").poi_name is None


def test_measurements_are_chosen_by_name_and_the_first_is_announced() -> None:
    spec = one_bin()
    other = {"name": "other", "config": {"poi": "sys", "parameters": []}}
    spec["measurements"] = [*spec["measurements"], other]
    assert compile_model(spec, measurement="other").poi_name == "sys"
    model = compile_model(spec)
    assert model.poi_name == "mu"
    assert "first of 2 measurements" in model.warnings[0]


def test_a_pyhf_model_without_data_asks_for_them() -> None:
    theirs, _ = pyhf_model(one_bin())
    with pytest.raises(InputError, match="no observed data"):
        compile_model(theirs).fit()


def test_clipping_of_pyhf_is_refused() -> None:
    theirs, _ = pyhf_model(one_bin(), clip_bin_data=0.0)
    with pytest.raises(InputError, match="clip_bin_data"):
        compile_model(theirs)


def test_strange_factors_are_warned_of() -> None:
    spec = workspace(
        {"c": [sample("s", [1.0], MU, {**factor("x"), "type": "normsys"})]}, {"c": [1.0]}
    )
    spec["channels"][0]["samples"][0]["modifiers"][1]["data"] = {"lo": 240.0, "hi": 241.0}
    [warning] = compile_model(spec).warnings
    assert "240" in warning
    assert '"x"' in warning


def test_models_do_not_change() -> None:
    model = compile_model(one_bin())
    with pytest.raises(ValueError, match="read-only"):
        model.data[0] = 3.0

"""What an objective may do with its context, and what it is told where it should not."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.training.checkpoint import Checkpoints
from hepdask_ml.training.context import Context, Over, Place, numbers_of

if TYPE_CHECKING:
    from pathlib import Path


def context(
    where: Path | None = None, start: int = 0, stop: int = 5, total: int = 5, **options: Any
) -> Context:
    kept = None if where is None else Checkpoints(where)
    place = Place(number=3, segment="barrel", seed=7, start=start, stop=stop, total=total)
    return Context(place=place, checkpoints=kept, **options)


@dataclass
class Counter:
    """A model: it adds up what it saw."""

    total: float = 0.0
    seen: list[int] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.seen = state["total"], state["seen"]


def stops(made: Context) -> bool:
    return made.should_stop


def train(made: Context, model: Counter, stop_after: int = 10**6) -> list[int]:
    """Train with random numbers; as if killed after some epochs."""
    done: list[int] = []
    for epoch in made.epochs(model=model):
        if len(done) == stop_after:
            break
        model.total += random.random() + np.random.rand()  # noqa: NPY002
        model.seen.append(epoch)
        made.report(epoch, {"loss": 1.0 / model.total})
        done.append(epoch)
    return done


class TestReport:
    def test_a_row_for_each_epoch(self) -> None:
        made = context()
        made.report(0, {"loss": 0.5, "auc": np.float32(0.25)}, samples=100)
        made.report(1, 0.25)
        assert [row[:2] for row in made.rows] == [
            [0, {"loss": 0.5, "auc": 0.25}],
            [1, {"loss": 0.25}],
        ]
        assert [row[3] for row in made.rows] == [100, None]
        assert all(row[2] >= 0.0 for row in made.rows)
        assert made.done == 2

    @pytest.mark.parametrize(("reported", "next_one"), [(0, 1), (0, -1), (1, 0), (1, 2)])
    def test_epochs_come_one_after_the_other(self, reported: int, next_one: int) -> None:
        made = context()
        for epoch in range(reported):
            made.report(epoch, 1.0)
        with pytest.raises(InputError, match="is due: begin with the epoch that") as told:
            made.report(next_one, 1.0)
        assert "\n" not in str(told.value)

    def test_who_goes_on_is_ended_softly(self) -> None:
        made = context(stop=1)
        made.report(0, 1.0)
        with pytest.raises(Over):
            made.report(1, 1.0)
        assert not issubclass(Over, Exception)
        assert len(made.rows) == 1

    def test_who_keeps_nothing_does_all_again_and_the_ledger_has_it_once(self) -> None:
        made = context(start=2)
        for epoch in range(5):
            made.report(epoch, float(epoch))
        assert [row[0] for row in made.rows] == [2, 3, 4]

    def test_who_keeps_things_elsewhere_begins_where_it_was(self) -> None:
        made = context(start=2)
        for epoch in range(2, 5):
            made.report(epoch, float(epoch))
        assert [row[0] for row in made.rows] == [2, 3, 4]

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ("a", "loss is a str: it must be a number"),
            ({"loss": None}, "loss is a NoneType"),
            ({"auc": [1.0]}, "auc is a list"),
            ([1.0, 2.0], "gives 2 numbers, and there are 1 objectives: give loss"),
            (np.zeros(2), r"loss is no single number \(.*\): give one"),
            (1j, "loss is a complex"),
        ],
    )
    def test_what_is_no_number_gets_a_sentence(self, given: Any, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            context().report(0, given)

    @pytest.mark.parametrize("given", [np.float32(0.5), np.array(0.5), np.array([0.5]), True, 1])
    def test_what_is_a_single_number_is_one(self, given: Any) -> None:
        found = numbers_of(given, ("loss",))
        assert found == {"loss": float(np.asarray(given).reshape(-1)[0])}
        assert type(found["loss"]) is float

    def test_several_are_named_by_the_objectives(self) -> None:
        assert numbers_of((1, 2), ("loss", "time")) == {"loss": 1.0, "time": 2.0}


class TestShouldStop:
    def test_when_all_epochs_are_done(self) -> None:
        made = context(stop=1, total=5)
        assert not stops(made)
        made.report(0, 1.0)
        assert stops(made)
        assert not made.stopped  # it is at a decision, not at the end of its time

    @pytest.mark.parametrize("loss", [nan, inf, -inf])
    def test_when_a_loss_is_not_finite(self, loss: float) -> None:
        made = context()
        made.report(0, loss)
        assert stops(made)
        assert made.diverged

    def test_other_metrics_need_not_be_finite(self) -> None:
        made = context()
        made.report(0, {"loss": 1.0, "auc": nan})
        assert not stops(made)

    def test_when_the_worker_has_to_go(self) -> None:
        leaving = [False]
        made = context(enough=lambda: leaving[0])
        assert not stops(made)
        leaving[0] = True
        assert stops(made)
        leaving[0] = False
        assert stops(made), "who said so once is believed"

    def test_when_the_time_of_the_call_is_up_but_not_before_an_epoch(self) -> None:
        made = context(block_s=0.0)
        assert not stops(made)
        made.report(0, 1.0)
        assert stops(made)
        assert made.stopped


class TestEpochs:
    def test_all_of_them_with_a_checkpoint_at_the_end(self, tmp_path: Path) -> None:
        made, model = context(tmp_path / "t"), Counter()
        assert train(made, model) == [0, 1, 2, 3, 4]
        found = Checkpoints(tmp_path / "t").load()
        assert found is not None
        assert (found.epoch, found.reference) == (5, made.reference)

    @pytest.mark.parametrize("killed_after", range(6))
    def test_after_a_kill_the_end_is_that_of_an_undisturbed_one(
        self, tmp_path: Path, killed_after: int
    ) -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        quiet, expected = context(tmp_path / "quiet"), Counter()
        train(quiet, expected)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        first = context(tmp_path / "t", interval_s=0.0)
        first_model = Counter()
        train(first, first_model, killed_after)
        random.seed(99)  # another process
        np.random.seed(99)  # noqa: NPY002
        again, model = context(tmp_path / "t"), Counter()
        if killed_after == 0:
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002
        train(again, model)
        assert model == expected
        assert [row[:2] for row in again.rows] == [row[:2] for row in quiet.rows]

    def test_rows_that_the_ledger_has_are_not_told_again(self, tmp_path: Path) -> None:
        train(context(tmp_path / "t", stop=3), Counter())
        made, model = context(tmp_path / "t", start=3), Counter()
        assert train(made, model) == [3, 4]
        assert [row[0] for row in made.rows] == [3, 4]
        assert model.seen == [0, 1, 2, 3, 4]

    def test_a_checkpoint_that_is_ahead_of_the_ledger_brings_its_rows(self, tmp_path: Path) -> None:
        train(context(tmp_path / "t", stop=3), Counter())
        made = context(tmp_path / "t", start=0)
        assert train(made, Counter()) == [3, 4]
        assert [row[0] for row in made.rows] == [0, 1, 2, 3, 4]

    def test_where_the_ledger_is_an_older_copy_nothing_is_left_out(self, tmp_path: Path) -> None:
        train(context(tmp_path / "t", stop=3), Counter())
        train(context(tmp_path / "t", start=3, stop=4), Counter())  # its checkpoint has row 3 alone
        made, model = context(tmp_path / "t", start=1), Counter()
        train(made, model)
        assert [row[0] for row in made.rows] == [1, 2, 3, 4]
        assert model.seen == [0, 1, 2, 3, 4]

    def test_an_epoch_that_is_not_reported_gets_a_sentence(self, tmp_path: Path) -> None:
        made = context(tmp_path / "t")
        with pytest.raises(InputError, match=r"epoch 0 was not reported: call context.report\(0"):
            for _ in made.epochs(model=Counter()):
                pass

    def test_a_state_that_diverged_is_not_kept(self, tmp_path: Path) -> None:
        made = context(tmp_path / "t", interval_s=0.0)
        for epoch in made.epochs(model=Counter()):
            made.report(epoch, nan if epoch == 2 else 1.0)
        assert len(made.rows) == 3
        found = Checkpoints(tmp_path / "t").load()
        assert found is None or found.epoch <= 2

    def test_it_saves_now_and_then_only(self, tmp_path: Path) -> None:
        made, model = context(tmp_path / "t", stop=50, total=50), Counter()
        train(made, model)
        assert len(list((tmp_path / "t").glob("*.tar"))) == 1

    def test_without_a_place_it_trains_and_keeps_nothing(self) -> None:
        made = context(interval_s=0.0)
        assert train(made, Counter()) == [0, 1, 2, 3, 4]
        assert made.reference is None
        with pytest.raises(InputError, match="there is no place for checkpoints: give one with"):
            made.save(weights=b"")


class TestLoadAndSave:
    def test_parts_are_those_of_the_newest(self, tmp_path: Path) -> None:
        first = context(tmp_path / "t")
        assert first.load() == 0
        assert dict(first.parts) == {}
        first.report(0, 1.0)
        first.save(weights=b"one")
        first.report(1, 1.0)
        first.save(weights=b"two")
        again = context(tmp_path / "t")
        assert again.load(weights=b"") == 2
        assert again.parts["weights"] == b"two"
        with pytest.raises(TypeError):
            again.parts["weights"] = b""  # type: ignore[index]

    def test_files_are_kept_and_written_again(self, tmp_path: Path) -> None:
        file = tmp_path / "tree.json"
        file.write_text("[1]")
        first = context(tmp_path / "t")
        first.report(0, 1.0)
        first.save(tree=file)
        file.unlink()
        assert context(tmp_path / "t").load(tree=file) == 1
        assert file.read_text() == "[1]"

    def test_what_was_not_saved_gets_a_sentence(self, tmp_path: Path) -> None:
        first = context(tmp_path / "t")
        first.report(0, 1.0)
        first.save(weights=b"one")
        with pytest.raises(InputError, match='no "model", it holds weights'):
            context(tmp_path / "t").load(model=Counter())

    def test_a_checkpoint_after_the_stop_is_not_taken(self, tmp_path: Path) -> None:
        train(context(tmp_path / "t"), Counter())
        assert context(tmp_path / "t", stop=3).load() == 0

    def test_other_ranks_leave_saving_to_the_first(self) -> None:
        class Second:
            rank, world = 1, 2

        context(ranks=Second()).save(weights=b"")


def test_it_says_where_it_is() -> None:
    made = context(start=2, stop=4)
    assert (made.number, made.segment, made.seed, made.files) == (3, "barrel", 7, ())
    assert (made.start, made.stop, made.total, made.rank, made.world) == (2, 4, 5, 0, 1)
    assert made.device in ("cpu", "cuda")
    assert made.used == made.device
    assert made.wrap(made) is made


def test_its_folder_is_empty_its_own_and_gone_afterwards() -> None:
    made, other = context(), context()
    folder = made.folder
    (folder / "a").write_text("a")
    assert made.folder == folder != other.folder
    assert list(other.folder.iterdir()) == []
    made.close()
    other.close()
    assert not folder.exists()


def test_batches_go_through_all_samples_once_in_the_trials_own_order() -> None:
    made = context()
    parts = [indices for indices, weight in made.batches(10, 4, epoch=1) if weight == 1.0]
    assert [len(part) for part in parts] == [4, 4, 2]
    order = np.concatenate(parts)
    assert sorted(order) == list(range(10))
    again = np.concatenate([indices for indices, _ in made.batches(10, 4, epoch=1)])
    assert (order == again).all()
    assert list(order) != list(np.concatenate([part for part, _ in made.batches(10, 4, epoch=2)]))

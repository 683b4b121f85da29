"""The batch: cutting, missing inputs, and what is left untouched."""

import pytest
import torch

from mmrl.core.batch import Batch, full

MASK = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
NUMBERS = torch.arange(9.0).reshape(3, 3)


@pytest.fixture
def batch():
    return Batch(
        torch.tensor([0, 0, 1]),
        2,
        MASK,
        truncated=torch.tensor([False, True, False]),
        scores={"ocr": torch.tensor([1.0, 2.0, 3.0])},
        logp_old=NUMBERS,
        columns={"stratum": torch.tensor([5, 6, 7])},
        features={"entropy": 10 * NUMBERS},
        step=4,
    )


def test_a_cut_takes_rows_and_columns_in_the_given_order(batch):
    cut = batch.at(torch.tensor([2, 0]), torch.tensor([1, 0]))
    assert cut.group.tolist() == [1, 0]
    assert cut.mask.tolist() == [[False, True], [True, True]]
    assert cut.truncated.tolist() == [False, False]
    assert cut.score("ocr").tolist() == [3, 1]
    assert cut.logp_old.tolist() == [[7, 6], [1, 0]]
    assert cut.column("stratum").tolist() == [7, 5]
    assert cut.feature("entropy").tolist() == [[70, 60], [10, 0]]
    assert (cut.n_groups, cut.step, len(cut), cut.logp_sampler) == (2, 4, 2, None)


def test_a_cut_keeps_the_length_of_whole_samples(batch):
    assert batch.lengths.tolist() == [2, 3, 1]
    assert batch.at(torch.tensor([1, 0]), torch.tensor([0])).lengths.tolist() == [3, 2]
    given = Batch(batch.group, 2, MASK, length=torch.tensor([9, 8, 7]))
    assert given.lengths.tolist() == [9, 8, 7]


def test_having_adds_and_leaves_the_old_batch(batch):
    more = batch.having(columns={"level": torch.zeros(3)}, features={"logp": NUMBERS})
    assert set(more.columns) == {"stratum", "level"}
    assert set(more.features) == {"entropy", "logp"}
    assert set(batch.columns) == {"stratum"}
    assert set(batch.features) == {"entropy"}


def test_missing_inputs_name_what_there_is(batch):
    with pytest.raises(ValueError, match=r"no column 'level' \(it has stratum\)"):
        batch.column("level")
    with pytest.raises(ValueError, match=r"no feature 'logp' \(it has entropy\); the modality"):
        batch.feature("logp")
    with pytest.raises(ValueError, match=r"no reward 'clip' \(it has ocr\)"):
        batch.score("clip")
    with pytest.raises(ValueError, match="no logp_sampler"):
        batch.needed("logp_sampler", batch.logp_sampler)
    assert batch.needed("logp_old", batch.logp_old) is NUMBERS


def test_a_full_batch_trains_every_action():
    made = full(torch.tensor([0, 2, 2]), actions=4)
    assert made.n_groups == 3
    assert made.mask.all()
    assert made.mask.shape == (3, 4)
    assert made.reduce(torch.ones(1), "sum") == 1

"""Money is counted before it is spent."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from mobileclip.captions.writers.endpoint import ServerError
from mobileclip.captions.writers.spending import Spending
from mobileclip.errors import DataError


def test_what_it_may_cost_is_held_and_what_it_did_cost_is_kept() -> None:
    spending = Spending(cap=1.0, price_in=1.0, price_out=2.0)
    with spending.held(100, 100) as hold:
        assert spending.spent == pytest.approx(0.3)
        assert hold.used({"prompt_tokens": 50, "completion_tokens": 10}) == 50
    assert spending.spent == pytest.approx(0.07)
    with spending.held(100, 100) as hold:
        hold.free()
    with spending.held(100, 100) as hold:
        hold.used({"prompt_tokens": -5, "completion_tokens": "many"})  # not believed: the most that was held stays
    assert spending.spent == pytest.approx(0.37)


def test_the_cap_is_not_passed() -> None:
    spending = Spending(cap=0.5, price_in=1.0, price_out=1.0)
    with spending.held(400, 0), pytest.raises(ServerError) as caught, spending.held(101, 0):
        pass
    assert str(caught.value) == (
        "0.4 of max_cost 0.5 is spent, and the next request may cost 0.101: raise max_cost to go on; what is finished "
        "is kept."
    )


def _spend(file: Path) -> None:
    spending = Spending(cap=100.0, price_in=1.0, price_out=1.0, file=file)
    for _ in range(50):
        with spending.held(10, 0) as hold:
            hold.used({"prompt_tokens": 5, "completion_tokens": 0})


def test_processes_share_the_sum(tmp_path: Path) -> None:
    file = tmp_path / "new" / "spent.json"
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_spend, [file, file]))
    assert Spending(cap=1, price_in=1, price_out=1, file=file).spent == pytest.approx(0.5)


@pytest.mark.parametrize("content", ["{", "[]", '{"spent": "x"}', '{"spent": NaN}', '{"spent": -1}'])
def test_a_sum_that_is_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "spent.json"
    file.write_text(content)
    with pytest.raises(DataError, match="does not say what was spent"):
        _ = Spending(cap=1, price_in=1, price_out=1, file=file).spent

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from rocketry_otel._model.ids import RunIds, ids_of


def test_ids_of_a_run_never_change() -> None:
    """The ids are part of the contract: old runs in a backend must be found again."""
    ids = ids_of("etl", "0123456789abcdef0123456789abcdef", 1_700_000_000_000_000_000)
    assert ids.trace_hex == "079425aa8885539a91ecf621c696b56d"
    assert ids.span_hex == "83b0fef6577ac2fd"
    assert ids == RunIds(int("079425aa8885539a91ecf621c696b56d", 16), int("83b0fef6577ac2fd", 16))


def test_ids_are_the_same_in_another_process() -> None:
    """Hash randomisation and the like have no part in them."""
    code = "from rocketry_otel._model.ids import ids_of\nprint(ids_of('etl', None, 5).trace_hex)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ids_of("etl", None, 5).trace_hex


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(0, 2**63 - 1),
)
def test_ids_are_valid(task_name: str, run_id: str | None, began: int) -> None:
    """Ids fit their 128 and 64 bits and are never zero, whatever names the run."""
    ids = ids_of(task_name, run_id, began)
    assert 0 < ids.trace_id < 2**128
    assert 0 < ids.span_id < 2**64
    assert len(ids.trace_hex) == 32
    assert len(ids.span_hex) == 16


def test_each_part_of_the_name_counts() -> None:
    """A different task, run id or beginning gives different ids."""
    names = [("etl", "1", 5), ("etl", "2", 5), ("etl", "1", 6), ("et", "l1", 5), ("etl", None, 5)]
    assert len({ids_of(*name) for name in names}) == len(names)


def test_low_bits_are_uniform() -> None:
    """Half of 2,000 runs lie below the middle of the low 56 and 64 bits, within 4 sigma."""
    for bits in (56, 64):
        for part in (0, 1):
            below = sum(
                ids_of("etl", str(n), n)[part] % 2**bits < 2 ** (bits - 1) for n in range(2000)
            )
            assert abs(below - 1000) < 4 * 22.4

"""A study keeps certificates, and bourn check takes them all from its store."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bourn.cli.main import run
from bourn.studies.certificates import Files, certified, check_all, files_of, folder_of
from bourn.studies.store import Store
from certificate_files import contents, rewritten

ROOT = Path(__file__).resolve().parent.parent


def ran(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    return run([str(a) for a in arguments]), *capsys.readouterr()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "digits.db"
    study = ROOT / "studies" / "digits.toml"
    asked = ("--only", "mlp", "--radius", "0.05", "--count", "6", "--first", "0", "--certificates", "-o")
    assert run(["study", "adversarial-error", str(study), *asked, str(path)]) == 0
    return path


def files(path: Path) -> list[Files]:
    with Store(path) as own:
        return [files_of(record, folder_of(path)) for record in certified(own)]


def test_a_studys_certificates_check(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = files(store)
    assert len(own) == 6
    assert all(f.certificate.exists() for f in own)
    assert ran(capsys, "check", store)[:2] == (0, "6 certified images: 6 proved\n")
    # What is asked is the study's question: a box of width twice the radius, but where it is clipped.
    text = gzip.decompress(own[0].specification.read_bytes()).decode()
    assert text.count("(assert (>= X_") == 64
    assert text.count("(and (>= Y_") == 9
    with Store(store) as answers:
        assert [t.outcome for t in check_all(answers, "rational", 2, 64.0, 600.0)] == ["proved"] * 6


def test_what_is_wrong_with_some_is_said_and_counted(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, *_ = (f.certificate for f in files(store))
    whole = {path: path.read_bytes() for path in (first, second, third)}
    manifest, arrays, chunks = contents(first)
    chunks[0]["refuted"].pop()
    rewritten(first, manifest, arrays, chunks)
    second.unlink()
    third.write_bytes(whole[third][:100])
    try:
        status, out, _ = ran(capsys, "check", store)
        lines = out.splitlines()
        assert status == 1
        assert lines[-1] == "6 certified images: 3 proved, 1 cannot be read, 1 no certificate, 1 not a proof"
        assert lines[0].startswith(f"{first}: not a proof: case 0, chunk 0: in part 0 nothing refutes conjunction 8")
        first.write_bytes(whole[first])
        assert ran(capsys, "check", store)[0] == 2
    finally:
        for path, data in whole.items():
            path.write_bytes(data)


def test_limits_and_arguments(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = files(store)[0]
    status, _, said = ran(capsys, "check", own.certificate, own.network, own.specification, "--time-limit", "0.001")
    assert status == 2
    assert "not checked within 0.001 seconds" in said
    assert ran(capsys, "check", own.certificate, own.network)[0] == 2
    assert ran(capsys, "check", store, "--memory", "-1")[0] == 2
    assert ran(capsys, "check", store.with_name("none.db"))[0] == 2
    assert ran(capsys, "check", store, "--workers", "0")[0] == 2


def test_certified_radii_have_certificates_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "radii.db"
    asked = ("--only", "mlp", "--count", "2", "-m", "crown", "-m", "pgd", "--certificates", "-o", path)
    assert ran(capsys, "study", "minimum-distortion", ROOT / "studies" / "digits.toml", *asked)[0] == 2  # another kind of study
    flags = ("-n", ROOT / "examples" / "digits_mlp.onnx", "--images", ROOT / "examples" / "digits_images.npz", *asked[2:])
    status, _, said = ran(capsys, "study", "minimum-distortion", *flags)
    assert status == 0
    assert "2 certificates written" in said
    assert ran(capsys, "check", path)[:2] == (0, "2 certified images: 2 proved\n")
    with Store(path) as own:
        for record in certified(own):
            text = gzip.decompress(files_of(record, folder_of(path)).specification.read_bytes()).decode()
            radius = float(text.split(" within ")[1].split()[0])
            assert 0.998 * record.result["radius"] <= radius <= record.result["radius"]

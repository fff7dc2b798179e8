"""What all commands share: nothing heavy before it is needed, files that are there already, how they are stopped."""

import argparse
import json
import os
import pickle
import pkgutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from safetensors import safe_open

import ase_klm
from ase_klm import KLMError, choices, cli, data, interrupts, lattices, processes, textures
from ase_klm.cli import main, outputs
from ase_klm.data import readers

HEAVY = {"torch", "e3nn", "matplotlib", "scipy", "ase"}


# nothing heavy before it is needed


@pytest.mark.parametrize(
    "code",
    [
        "import ase_klm; dir(ase_klm)",
        "from ase_klm.cli import main; main(['--help'])",
        "from ase_klm.cli import main; main(['--version'])",
        "from ase_klm.cli import main; main(['train', '--nonsense'])",
        "from ase_klm.cli import main; main(['nonsense'])",
        "import ase_klm.processes",
        *(f"from ase_klm.cli import main; main(['{verb}', '--help'])" for verb in cli.VERBS),
        "from ase_klm.cli import main; main(['data', 'check', '--help'])",
    ],
)
def test_nothing_heavy_is_imported(code):
    script = f"""
import sys
try:
    {code}
except SystemExit:
    pass
found = {HEAVY!r} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)


def test_public_names_and_rooms():
    for name in set(ase_klm.__all__) - {"KLMError", "KLMWarning"}:
        assert ase_klm.__getattr__(name) is getattr(ase_klm, name)
    assert set(ase_klm.__all__) <= set(dir(ase_klm))
    everything = {}
    exec("from ase_klm import *", everything)
    assert set(ase_klm.__all__) <= set(everything)
    assert everything["KondoEDCalculator"] is ase_klm.calculators.KondoEDCalculator
    assert ase_klm.potentials.Zeeman is ase_klm.potentials.zeeman.Zeeman
    for room in pkgutil.iter_modules(ase_klm.__path__):
        assert getattr(ase_klm, room.name).__name__ == f"ase_klm.{room.name}"
    for name in ("nonsense", "_nonsense", "__wrapped__"):
        assert not hasattr(ase_klm, name)
    assert pickle.loads(pickle.dumps(ase_klm.SpinCalculator)) is ase_klm.SpinCalculator  # noqa: S301, made here


def test_names_that_help_tells_of_are_those_of_the_rooms():
    assert tuple(readers.FORMATS) == choices.FORMATS
    assert all(callable(getattr(lattices, name.replace("-", "_"))) for name in cli.sample.LATTICES)


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"ase-klm {ase_klm.__version__}\n"


# files that are there already


def test_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.png").write_text("mine")
    Path("folder.png").mkdir()
    endings = {"--a": (".png",), "--b": (".png",)}

    def check(a, b=None, overwrite=False):
        outputs.check_outputs({"--a": a, "--b": b}, endings, overwrite)

    check("new.png", Path("other.png"))
    check(None)
    check("there.png", overwrite=True)
    for names, words in (
        (("there.png",), "there already"),
        ((tmp_path / "there.png",), "add --overwrite"),
        (("new.png", "./new.png"), "named twice"),
        (("folder.png",), "it is a folder"),
        (("new.txt",), "it names a file .png"),
        (("no/new.png",), "in a folder that exists"),
    ):
        with pytest.raises(KLMError, match=words):
            check(*names)
    assert Path("there.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("answer", "allowed"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_a_terminal_is_asked(tmp_path, monkeypatch, capsys, answer, allowed):
    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return answer

    file = tmp_path / "there.png"
    file.touch()
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    check = partial(outputs.check_outputs, {"--a": file}, {"--a": (".png",)}, False)
    if allowed:
        check()
    else:
        with pytest.raises(KLMError, match="there already"):
            check()
    assert "Overwrite it?" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".npz", ".extxyz", ".traj", ".db"])
def test_convert_overwrites_only_when_told(tmp_path, capsys, ending):
    first, second, out = tmp_path / "1.traj", tmp_path / "2.traj", tmp_path / f"out{ending}"
    for number, file in enumerate((first, second), start=1):
        atoms = lattices.square((number, 1))
        textures.uniform(atoms)
        data.write(file, atoms)
    assert main(["data", "convert", str(first), str(out)]) == 0
    before = out.read_bytes()
    assert main(["data", "convert", str(second), str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["data", "convert", str(second), str(out), "--overwrite"]) == 0
    assert len(data.read(out)[0].atoms) == 2
    assert not [file for file in tmp_path.iterdir() if "tmp" in file.name]


# Ctrl-C and SIGTERM


def stop_in_a_block(done):
    with interrupts.deferred():
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(stop)
        done.append("whole")


def test_a_block_is_done_whole():
    done = []
    with interrupts.noted() as came:
        with pytest.raises(KeyboardInterrupt):
            stop_in_a_block(done)
        assert done == ["whole"]
        assert len(came) == 1
        signal.raise_signal(signal.SIGTERM)  # at once, so it is the same stop
        came[0] -= 2 * interrupts.AT_ONCE
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("raised_as", [KeyboardInterrupt, RuntimeError, KLMError])
def test_a_stopped_command_says_so(monkeypatch, capsys, stop, raised_as):
    def run(_options):
        try:
            signal.raise_signal(stop)
        except KeyboardInterrupt:  # libraries may make something else of it
            raise (KLMError("a", "b", "c") if raised_as is KLMError else raised_as) from None

    monkeypatch.setattr(cli.data, "run", run)
    assert main(["data", "check", "nothing.npz"]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err


def test_what_is_kept_is_told_truthfully(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.toml").write_text('[run]\ndirectory = "net"\n')
    Path("broken.toml").write_text("[run")
    training = argparse.Namespace(configuration=Path("train.toml"))
    assert "no checkpoint yet" in cli.train.interrupted(training)
    Path("net").mkdir()
    Path("net", choices.CHECKPOINT).touch()
    assert f"continues from net/{choices.CHECKPOINT}" in cli.train.interrupted(training)
    assert cli.train.interrupted(argparse.Namespace(configuration=Path("broken.toml"))) == "nothing was kept"

    sampling = argparse.Namespace(output=Path("set.npz"))
    assert "no label was finished" in cli.sample.interrupted(sampling)
    Path("set.npz.parts").mkdir()
    Path("set.npz.parts", ".000000.npz.tmp").touch()
    assert "no label was finished" in cli.sample.interrupted(sampling)
    Path("set.npz.parts", "000000.npz").touch()
    assert "kept in set.npz.parts" in cli.sample.interrupted(sampling)

    assert "starts anew" in cli.magnons.interrupted(argparse.Namespace(cache=None))
    assert "starts anew" in cli.magnons.interrupted(argparse.Namespace(cache="forces"))
    Path("forces").mkdir()
    assert "kept in forces" in cli.magnons.interrupted(argparse.Namespace(cache="forces"))


STOPPED = """
import re
import sys
from contextlib import closing
from ase_klm import cli
from ase_klm.processes import carried_out


def work(number):
    if number == 0:
        return "one is done"
    re.match("(a+)+$", 60 * "a" + "b")  # for ages, and it lets no other thread of Python run


def run(options):
    with closing(carried_out(work, range(3), 2)) as finished:
        for number, result in finished:
            print(result, flush=True)


if __name__ == "__main__":
    cli.data.run = run
    sys.argv = ["ase-klm", "data", "check", "nothing.npz"]
    sys.exit(cli.main())
"""


def members(session):
    """Processes of a session that are still running."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(number) == session and state != "Z":
                found.append(int(entry.name))
    return found


def stopped(command, ready, how, cwd=None):
    """Start a command, wait until it is ready, stop it; returns its status and what it said, once all has ended."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, start_new_session=True
    )
    try:
        ready(process)
        stop, whole_group = how
        (os.killpg if whole_group else os.kill)(process.pid, stop)
        out, err = process.communicate(timeout=20)
        end = time.monotonic() + 10
        while members(process.pid) and time.monotonic() < end:
            time.sleep(0.02)
        assert not members(process.pid), "processes are left"
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
    return process.returncode, out, err


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("how", "status"),
    [
        ((signal.SIGINT, True), 130),
        ((signal.SIGINT, False), 130),
        ((signal.SIGTERM, True), 130),
        ((signal.SIGTERM, False), 130),
        ((signal.SIGKILL, False), -signal.SIGKILL),
    ],
)
def test_processes_end_with_their_parent(tmp_path, how, status):
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    returned, _, err = stopped([sys.executable, str(script)], lambda process: process.stdout.readline(), how)
    assert returned == status
    assert "Traceback" not in err
    assert status < 0 or err == "\nase-klm: interrupted; nothing was written; the same command starts anew\n"


def test_the_status_is_that_of_an_interruption_wherever_it_came(tmp_path):
    """Python would end with the signal where `exec` of a text was interrupted, as in the making of dataclasses."""
    script = tmp_path / "stopped.py"
    script.write_text(
        "import sys\nfrom ase_klm import cli\n"
        "cli.data.run = lambda options: exec('import signal; signal.raise_signal(signal.SIGINT)')\n"
        "sys.argv = ['ase-klm', 'data', 'check', 'nothing.npz']\nsys.exit(cli.main())\n"
    )
    assert subprocess.run([sys.executable, str(script)], check=False, capture_output=True).returncode == 130


def test_results_errors_and_deaths_of_processes():
    with closing(processes.carried_out(abs, range(-7, 0), 3)) as finished:
        assert sorted(finished) == [(number, 7 - number) for number in range(7)]
    assert list(processes.carried_out(abs, [], 2)) == []
    with pytest.raises(TypeError, match="bad operand"):
        list(processes.carried_out(abs, ["a", "b"], 2))
    with pytest.raises(KLMError, match="a process has died") as died:
        list(processes.carried_out(os._exit, [3], 1))
    assert "status is 3" in died.value.why


LINE = (
    "sample set.npz --lattice square --size 14 14 --hopping 1:1.0 --J 7 --filling 0.48 --count 400 --seed 1 --workers 2"
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_stopped_sampling_keeps_its_labels(tmp_path, whole_group):
    def ready(_process):
        while not list(tmp_path.glob("set.npz.parts/[!.]*.npz")):
            time.sleep(0.05)

    command = [sys.executable, "-m", "ase_klm.cli", *LINE.split()]
    status, _, err = stopped(command, ready, (signal.SIGINT, whole_group), tmp_path)
    assert status == 130
    assert "Traceback" not in err
    assert "kept in set.npz.parts; the same command goes on" in err


TRAINING = """
[data]
files = ["set.npz"]
[model]
architecture = "ECNN"
[run]
directory = "net"
minutes = 5
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stopped_training_keeps_a_checkpoint(tmp_path):
    model = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}
    data.sample(lattices.square((4, 4)), tmp_path / "set.npz", 8, seed=1, **model)
    (tmp_path / "train.toml").write_text(TRAINING)
    steps = []

    def ready(process):
        process.stdout.readline()  # of what will be trained
        time.sleep(5)

    for how in ((signal.SIGINT, True), (signal.SIGTERM, False)):
        command = [sys.executable, "-m", "ase_klm.cli", "train", "train.toml"]
        status, _, err = stopped(command, ready, how, tmp_path)
        assert status == 130
        assert "Traceback" not in err
        assert "the same command continues from net/checkpoint.safetensors" in err
        with safe_open(tmp_path / "net" / "checkpoint.safetensors", "pt") as file:
            steps.append(json.loads(file.metadata()["progress"])["step"])
    assert 0 < steps[0] < steps[1]


# any terminal, any reader, any way to start Python


def _script(tmp_path, body):
    """A command whose verb does something else."""
    file = tmp_path / "command.py"
    file.write_text(
        f"import sys\nfrom ase_klm import cli, errors\ndef run(options):\n    {body}\ncli.data.run = run\n"
        "sys.argv = ['ase-klm', 'data', 'check', 'nothing.npz']\nsys.exit(cli.main())\n"
    )
    return [sys.executable, str(file)]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("verb", [*cli.VERBS, "data check"])
def test_help_is_shown_in_any_encoding(encoding, verb):
    command = [sys.executable, "-m", "ase_klm.cli", *verb.split(), "--help"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": encoding}, check=True, capture_output=True)
    assert done.stdout.decode(encoding).startswith(f"usage: ase-klm {verb}")


def test_results_are_shown_in_any_encoding(tmp_path):
    command = _script(tmp_path, "print('1 μB, 2 Å⁻¹, ħω ± 3 °')")
    for encoding, text in (
        ("ascii", "1 uB, 2 A??, hbaromega +- 3  deg"),
        ("latin-1", "1 uB, 2 Å?¹, hbaromega ± 3 °"),
        ("utf-8", "1 μB, 2 Å⁻¹, ħω ± 3 °"),
    ):
        done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": encoding}, check=True, capture_output=True)
        assert done.stdout.decode(encoding).strip() == text


def test_without_docstrings():
    """`python -OO` and PYTHONOPTIMIZE=2 take them away, and help texts with them."""
    for verb in cli.VERBS:
        subprocess.run([sys.executable, "-OO", "-m", "ase_klm.cli", verb, "--help"], check=True, capture_output=True)


@pytest.mark.parametrize("body", ["print('x')", "print('x' * 100_000)"])
def test_a_reader_who_leaves(tmp_path, body):
    """As `| head` does: quiet, and with the status of other programs. The short text is written at the end only."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(_script(tmp_path, body), check=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


def test_warnings_are_shown_as_errors_are(tmp_path):
    command = _script(tmp_path, "errors.warn('a', 'b', 'c'); import warnings; warnings.warn('of others', stacklevel=1)")
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert shown.startswith("ase-klm: warning: a\n  why: b\n  what to do: c\n")
    assert "command.py:4: UserWarning: of others" in shown


def test_an_input_is_never_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("s.json").write_text("mine")
    Path("link.json").symlink_to("s.json")
    for output in ("s.json", "./s.json", "link.json"):
        assert main(["magnons", "s.json", "--model", "cri3-model", "--output", output, "--overwrite"]) == 2
        assert "is an input" in capsys.readouterr().err
    assert Path("s.json").read_text() == "mine"
    assert main(["data", "check", "s.png", "--picture", "s.png", "--overwrite"]) == 2
    assert "is an input" in capsys.readouterr().err


def test_interrupted_magnons_say_what_is_kept(tmp_path):
    def told(cache):
        return cli.magnons.interrupted(argparse.Namespace(cache=cache))

    assert "with --cache FOLDER" in told(None)
    assert "no forces are kept yet" in told(str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    assert "goes on from them" in told(str(tmp_path / "kept"))


def test_completion_shows_rooms_and_nothing_imported():
    seen = {name for name in dir(ase_klm) if not name.startswith("_")}
    assert seen == {*ase_klm.__all__, *(room.name for room in pkgutil.iter_modules(ase_klm.__path__))}
    with pytest.raises(AttributeError) as missing:
        ase_klm.LLGDynamic  # noqa: B018
    assert missing.value.name == "LLGDynamic"  # Python asks: did you mean LLGDynamics?
    assert missing.value.obj is ase_klm


def test_processes_leave_no_semaphores(tmp_path):
    """A bar of tqdm makes one in a process, which is killed in the end; Python would tell of it after the results."""
    script = tmp_path / "bars.py"
    script.write_text(
        "import os\nfrom tqdm import tqdm\nfrom ase_klm import processes\n"
        "def work(number):\n    return sum(tqdm(range(number), disable=False, file=open(os.devnull, 'w')))\n"
        "if __name__ == '__main__':\n    print(sorted(processes.carried_out(work, [3, 4], 2)))\n"
    )
    with Path(tmp_path, "err").open("w") as err:  # the tracker of resources outlives the command
        done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, stderr=err)
    assert done.stdout.decode().strip() == "[(0, 3), (1, 6)]"
    time.sleep(0.5)
    assert "leaked" not in Path(tmp_path, "err").read_text()

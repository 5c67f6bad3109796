"""Run configurations: what is refused, in which words, and that everything else arrives as written."""

from pathlib import Path

import pytest

from lavasnn.config import RunConfig, load, parse
from lavasnn.dynamics.timing import Timing
from lavasnn.errors import ConfigError, InputError

WHOLE = """
name = "a-run.1"
seeds = [3, 4]
baselines = ["backprop", "predictive-coding"]
threads = 2
[data]
name = "mnist"
validation = 10
limit = 100
input_exponent = -6
[network]
hidden = [20, 30]
[training]
method = "diffpc"
form = "literal"
epochs = 3
batch = 7
optimizer = "sgd"
learning_rate = 1
weight_decay = 0.0
momentum = 0.5
schedule = "constant"
clip_norm = 0
dropout = 0.1
input_dropout = 0.2
shift = 1
flip = true
iterations = 4
relaxation_rate = 0.2
[timing]
m = 3
n = 5
m_error = 1
init_cycles = 3
settle_cycles = 4
schedule = "cyclic-decay"
final = 0.5
decay = "binary"
gamma = 0.25
targets = "live"
comparator = ">"
gate = ">"
update_activity = "settled"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message.removeprefix(f"{path}: ")


def test_every_entry_arrives_as_written(tmp_path: Path) -> None:
    run = load(written(tmp_path, WHOLE))
    assert (run.name, run.seeds, run.baselines, run.threads) == ("a-run.1", (3, 4), ("backprop", "predictive-coding"), 2)
    assert run.data.model_dump() == {"name": "mnist", "validation": 10, "limit": 100, "input_exponent": -6}
    assert run.network.hidden == (20, 30)
    t = run.training
    assert (t.method, t.form, t.epochs, t.batch, t.optimizer) == ("diffpc", "literal", 3, 7, "sgd")
    assert (t.learning_rate, t.weight_decay, t.momentum, t.schedule, t.clip_norm) == (1.0, 0.0, 0.5, "constant", 0.0)
    assert (t.dropout, t.input_dropout, t.shift, t.flip, t.iterations, t.relaxation_rate) == (0.1, 0.2, 1, True, 4, 0.2)
    assert run.timing == Timing(3, 5, 1, 3, 4, "cyclic-decay", 0.5, "binary", 0.25, "live", ">", ">", "settled")


def test_nothing_written_means_the_defaults(tmp_path: Path) -> None:
    run = load(written(tmp_path, ""))
    assert run == RunConfig()
    assert (run.data.name, run.network.hidden, run.training.method, run.timing) == ("digits", (400,), "diffpc", Timing())


@pytest.mark.parametrize(
    "text, allowed",
    [
        ("epocs = 3", "name, seeds, baselines, threads, data, network, training, timing, spiking, bsd, choose, sweep"),
        ("[training]\nepocs = 3", "epochs, batch, optimizer, learning_rate"),
        ("[data]\nnmae = 'digits'", "name, validation, limit, input_exponent"),
        ("[network]\nhiden = [3]", "hidden, neuron"),
        ("[spiking]\nstpes = 3", "steps, dv, du, vth, surrogate, code, pairs, sparsity, pair_choice, pair_field, bias, norm"),
        ("[timing]\nmm = 3", "m, n, m_error, init_cycles"),
        ("[trainning]\nepochs = 3", "name, seeds, baselines"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_allowed_ones(tmp_path: Path, text: str, allowed: str) -> None:
    message = refusal(tmp_path, text)
    wrong = text.split("=", 1)[0].replace("]", ".").replace("[", "").replace("\n", "").strip()
    wrong = "trainning" if "trainning" in text else wrong
    assert message.startswith(f"unknown entry {wrong}; allowed are {allowed}")


@pytest.mark.parametrize(
    "text, words",
    [
        ("[training]\nepochs = 0", "training.epochs is 0: input should be greater than or equal to 1"),
        ("[training]\nepochs = 1.5", "training.epochs is 1.5: input should be a valid integer"),
        ("[training]\nepochs = '3'", "training.epochs is '3': input should be a valid integer"),
        ("[training]\nepochs = true", "training.epochs is True: input should be a valid integer"),
        ("[training]\nbatch = -1", "training.batch is -1"),
        ("[training]\nlearning_rate = 0", "training.learning_rate is 0"),
        ("[training]\nlearning_rate = nan", "training.learning_rate is nan"),
        ("[training]\nclip_norm = inf", "training.clip_norm is inf: input should be a finite number"),
        ("[training]\ndropout = 1.0", "training.dropout is 1.0: input should be less than 1"),
        ("[training]\nmethod = 'magic'", "training.method is 'magic': input should be 'diffpc', 'backprop', "),
        ("training = 3", "training is 3"),
        ("[network]\nhidden = [8, 0]", "network.hidden[1] is 0; a layer needs at least 1 neuron"),
        ("[network]\nhidden = [-8]", "network.hidden[0] is -8; a layer needs at least 1 neuron"),
        ("[network]\nhidden = 8", "network.hidden is 8"),
        ("[network]\nhidden = ['8']", "network.hidden.0 is '8'"),
        ("seeds = []", "seeds is []"),
        ("seeds = [-1]", "seeds.0 is -1: input should be greater than or equal to 0"),
        ("seeds = [9223372036854775808]", "seeds.0 is 9223372036854775808: input should be less than or equal to"),
        ("threads = 0", "threads is 0"),
        ("name = '../x'", "name is '../x'"),
        ("name = ''", "name is ''"),
        ("[data]\nname = 'cifar'", "data.name is 'cifar': allowed are digits, mnist, fashion_mnist, svhn, cifar10,"),
        ("[data]\nlimit = -1", "data.limit is -1"),
        ("[timing]\nm = 21", "timing: m is 21, allowed are whole numbers -20..20"),
        ("[timing]\nn = 0", "timing: n is 0, allowed are whole numbers 1..20"),
        ("[timing]\nm = 1.5", "timing: m is 1.5"),
        ("[timing]\ngamma = 0.0", "timing: gamma is 0.0, allowed is more than 0 up to 1"),
        ("[timing]\nfinal = nan", "timing: final is nan"),
        ("[timing]\nfinal = 'x'", "timing.final is 'x', needed is a number above 0 up to 1"),
        ("[timing]\ngamma = [1]", "timing.gamma is [1], needed is a number"),
        ("[timing]\ngamma = true", "timing.gamma is True, needed is a number"),
        ("[timing]\ngate = '>>'", "timing: gate is '>>', allowed are '>=', '>'"),
        ("[timing]\nschedule = [1]", "timing: schedule is [1], allowed are"),
        ("timing = 3", "timing is 3, needed is a table"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    assert refusal(tmp_path, text).startswith(words)


PAIRS = "allowed are an integer 1..16777216, or a list of integers 0..16777216, one for each layer"


@pytest.mark.parametrize(
    "text, words",
    [
        ("steps = 0", "spiking.steps is 0: input should be greater than or equal to 1"),
        ("dv = 1.5", "spiking.dv is 1.5: input should be less than or equal to 1"),
        ("du = -0.1", "spiking.du is -0.1"),
        ("vth = 0", "spiking.vth is 0: input should be greater than 0"),
        ("surrogate = 'tanh'", "spiking.surrogate is 'tanh': input should be 'atan', 'triangle' or 'sigmoid'"),
        ("code = 'rate'", "spiking.code is 'rate': input should be 'bernoulli', 'direct', 'latency' or 'events'"),
        ("pair_choice = 'best'", "spiking.pair_choice is 'best': input should be 'covariance', 'random' or 'active'"),
        ("bias = 1", "spiking.bias is 1: input should be a valid boolean"),
        ("pairs = 0", f"spiking.pairs is 0: {PAIRS}"),
        ("pairs = 1.5", f"spiking.pairs is 1.5: {PAIRS}"),
        ("pairs = true", f"spiking.pairs is True: {PAIRS}"),
        ("pairs = []", f"spiking.pairs is []: {PAIRS}"),
        ("pairs = [3, -1]", f"spiking.pairs is [3, -1]: {PAIRS}"),
        ("pairs = [3]", "spiking.pairs has 1 numbers, the network 2 layers"),
        ("pairs = [0, 0]", "spiking.pairs has 0 pairs in all layers, which is neuron 'lif'"),
        ("pairs = [3, 3]\ncode = 'direct'", "spiking.pairs[0] is 3; with code 'direct' it has to be 0, for pairs need spikes"),
    ],
)
def test_a_spiking_entry_out_of_range_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    assert refusal(tmp_path, f"[network]\nneuron = 'dlif'\n[spiking]\n{text}").startswith(words)


DLIF = "[network]\nneuron = 'dlif'\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("[network]\nneuron = 'qif'", "network.neuron is 'qif': input should be 'diffpc', 'lif', 'dlif' or 'pyramidal'"),
        ("[spiking]\nsteps = 3", "there is a section spiking, which neuron 'diffpc' does not have"),
        (DLIF + "[timing]\nm = 3", "there is a section timing, which neuron 'dlif' does not have"),
        (DLIF + "[training]\nmethod = 'diffpc'", "training.method is 'diffpc', with neuron 'dlif' allowed is 'bptt'"),
        (
            "[training]\nmethod = 'bptt'",
            "training.method is 'bptt', with neuron 'diffpc' allowed is 'diffpc', 'backprop', 'predictive-coding'",
        ),
        ("baselines = ['lif']", "baselines has 'lif', with neuron 'diffpc' allowed is 'backprop', 'predictive-coding'"),
        ("baselines = ['backprop']\n" + DLIF, "baselines has 'backprop', with neuron 'dlif' allowed is 'lif', 'lif-wide'"),
        ("baselines = ['lif']\n[network]\nneuron = 'lif'", "baselines has 'lif', with neuron 'lif' allowed is none"),
        (DLIF + "[training]\ndropout = 0.5", "training.dropout is 0.5, with neuron 'dlif' allowed is 0"),
        (DLIF + "[training]\ninput_dropout = 0.5", "training.input_dropout is 0.5, with neuron 'dlif' allowed is 0"),
        (DLIF + "[data]\ninput_exponent = -6", "data.input_exponent is -6, which neuron 'dlif' does not have"),
        (
            "[network]\nneuron = 'dlif'\nhidden = []\n[spiking]\ncode = 'direct'",
            "network.hidden is empty; with code 'direct' a dlif network needs a hidden layer, for pairs need spikes",
        ),
    ],
)
def test_entries_of_other_neurons_are_refused(tmp_path: Path, text: str, words: str) -> None:
    assert refusal(tmp_path, text).startswith(words)


def test_a_spiking_run_arrives_as_written(tmp_path: Path) -> None:
    text = """baselines = ["lif", "lif-wide"]
[network]
hidden = [20]
neuron = "dlif"
[spiking]
steps = 6
dv = 0.25
du = 0.5
vth = 2
surrogate = "triangle"
code = "latency"
pairs = [30, 0]
pair_choice = "active"
bias = true
"""
    run = load(written(tmp_path, text))
    assert (run.network.neuron, run.training.method, run.label, run.baselines) == ("dlif", "bptt", "dlif", ("lif", "lif-wide"))
    s = run.spiking
    assert (s.steps, s.dv, s.du, s.vth, s.surrogate) == (6, 0.25, 0.5, 2.0, "triangle")
    assert (s.code, s.pairs, s.pair_choice, s.bias) == ("latency", (30, 0), "active", True)
    plain = run.with_lif((7,))
    assert (plain.label, plain.network.hidden, plain.baselines, plain.spiking) == ("lif", (7,), (), s)
    with pytest.raises(ConfigError, match=r"training\.method is 'backprop', with neuron 'dlif' allowed is 'bptt'"):
        run.with_training(method="backprop")


def test_all_wrong_entries_are_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "threads = 0\n[training]\nepochs = 0\nbatch = 0\nfoo = 1")
    assert all(part in message for part in ("threads is 0", "training.epochs", "training.batch", "unknown entry training.foo"))


@pytest.mark.parametrize("content", [b"[[", b"\xff\xfe\x00", b"a = ", b"name = 'a'\nname = 'b'"])
def test_what_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not TOML"):
        load(path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.toml: No such file"):
        load(tmp_path / "none.toml")


def test_another_training_section_is_checked_too() -> None:
    run = parse({}, "here").with_training(epochs=2, method="backprop")
    assert (run.training.epochs, run.training.method, run.timing) == (2, "backprop", Timing())
    with pytest.raises(ValueError, match="epochs"):
        run.with_training(epochs=0)

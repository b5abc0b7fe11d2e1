"""Configs by hand: contradictions, files that are no configs, names that are none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attack.configs import short, train_command, up_to_the_first_step
from attack.outcomes import Attack, Outcome, judge
from attack.pictures import plain_folder
from vit_jax.training.sections import config_sections

# Settings that are values each by itself, and may not go together; one attack a line.
PAIRS = Path(__file__).with_name("contradictions.txt").read_text().splitlines()
MORE = (
    "init=\x1b[31m",
    "data.name=" + "n" * 5000,
    "model.name=ViT-B/" + "9" * 99,
)
# Files that are no configs.
FILES = {
    "nothing": "",
    "bytes": b"\xff\xfe\x00",
    "null bytes": b"x = 1\0",
    "syntax": "def get_config(:\n",
    "indentation": "def get_config():\nreturn 1\n",
    "nested deeply": "x = " + "(" * 999 + ")" * 999,
    "no get_config": "x = 1\n",
    "get_config is a number": "get_config = 12\n",
    "an import": "import nothing_of_that_name\n",
    "a name": "get_config = no_such_name\n",
    "exits": "raise SystemExit\n",
    "exits in get_config": "def get_config():\n    raise SystemExit(0)\n",
    "divides": "def get_config():\n    return 1 / 0\n",
    "recursion": "def get_config():\n    return get_config()\n",
    "a key": "def get_config():\n    return {}['a']\n",
    "asserts": "def get_config():\n    assert False\n",
    "a dict": "def get_config():\n    return {'model': {}}\n",
    "None": "def get_config():\n    pass\n",
    "a class": "class get_config:\n    pass\n",
    "a generator": "def get_config():\n    yield 1\n",
    "many arguments": "def get_config(a, b):\n    return a\n",
    **{
        f"config: {line}": "from configs import digits\n"
        f"def get_config():\n    config = digits.get_config()\n    {line}\n"
        "    return config\n"
        for line in (
            *(
                "config.unlock(); del config.model",
                "config.unlock(); del config['data']",
            ),
            *("config.unlock(); config.model = 3", "config.unlock(); config.seed = {}"),
            *(
                "config.unlock(); config.mine = 3",
                "config.unlock(); config.train = None",
            ),
            *("config.unlock(); config['a.b'] = 1", "config = type(config)()"),
            *("config.unlock(); del config.train.duration", "config.model.nme = 'x'"),
            *("config.train.duration = 4", "config.optim.learning_rate = 'fast'"),
            *("config.model.width = None", "config.unlock(); config.data = []"),
            *(
                "config.unlock(); config.eval.splits = 'test'",
                "config.data.name = 'a\\0b'",
            ),
            *(
                "config.unlock(); config.model.depth = lambda: 1",
                "config.init = '\\ud800'",
            ),
            *(
                "config.unlock(); config.model = config",
                "config.unlock(); del config.seed",
            ),
        )
    },
}
SPECS = (
    *(
        "",
        " ",
        ".",
        "/",
        "..",
        "digit",
        "digits.json",
        "/dev/null",
        "/dev/zero",
        "configs",
    ),
    *("digits:x", "digits:a=b", "digits::", "README.md", "configs/", "base"),
    *("folder", "folder:", "folder:data=", "folder:data=/nowhere", "folder:size=64"),
    *(
        "folder:data=DATA,size=0",
        "folder:data=DATA,size=-1",
        "folder:data=DATA,size=abc",
    ),
    *(
        "folder:data=DATA,size=nan",
        "folder:data=DATA,data=/nowhere",
        "folder:data=DATA,x=1",
    ),
    *(
        "folder:data=DATA,model=nothing",
        "folder:=,=",
        "folder:,",
    ),
    *(
        "finetune",
        "finetune:",
        "finetune:dataset=nothing",
        "finetune:dataset=cifar10,x",
    ),
    *(
        "vtab",
        "vtab:",
        "vtab:nothing",
        "vtab:task=nothing",
        "\x1b[31m",
        "n" * 5000,
        "a\nb",
    ),
    *(
        "vit_jax/config.py",
        "vit_jax/train.py",
        "tests/conftest.py",
        "Makefile",
        "~/x.py",
    ),
)
KEYS = (
    *(
        "=3",
        ".=3",
        "model=3",
        "model.=3",
        ".name=3",
        "model.name.x=3",
        "seed.x=1",
        "x=1",
    ),
    *(
        "model..name=3",
        "optim.lr=0.1",
        "lr=0.1",
        "model.nme=x",
        "a" * 5000 + "=1",
        "seed",
    ),
    *("__class__=1", "model.__class__=1", "model.keys=1", "items=1", "seed.__abs__=1"),
    *(
        "optim.learning-rate=1",
        "OPTIM.LEARNING_RATE=1",
        " seed=1",
        "seed =1",
        "\x1b[31m=1",
    ),
)


def by_hand() -> Iterator[Attack]:
    """Contradictions, files that are no configs, names and keys that are none."""
    kind = "settings that do not go together"
    for text in (*PAIRS, *MORE):

        def act(folder: Path, text: str = text) -> Any:
            with up_to_the_first_step():
                ending = train_command(folder, *text.split())
            words = [x.partition("=")[0].rpartition(".")[2] for x in text.split()]
            names = tuple(part for word in words for part in (word, *word.split("_")))
            names += tuple(repr(x.partition("=")[2])[1:-1] for x in text.split())
            names += ("patch size", "patch_size") if "model.name" in text else ()
            return judge(ending, names=names, begun=(folder / "run",))

        yield Attack(kind, text[:90], act, (Outcome.REFUSED, Outcome.SAME))
    for name, content in FILES.items():

        def read(folder: Path, content: Any = content) -> Any:
            path = folder / "mine.py"
            path.write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
            with up_to_the_first_step():
                ending = train_command(folder, config=str(path))
            sections = ("mine.py", *config_sections())
            return judge(ending, names=sections, begun=(folder / "run",))

        yield Attack("files of configs", name, read)
    for spec in SPECS:

        def start(folder: Path, spec: str = spec) -> Any:
            spec = spec.replace("DATA", str(plain_folder(folder)))
            with up_to_the_first_step():
                ending = train_command(folder, config=spec)
            names = ("config", "data", "model", spec[:50])
            return judge(ending, names=names, begun=(folder / "run",))

        yield Attack("names of configs", short(spec), start)
    for key in KEYS:

        def change(folder: Path, key: str = key) -> Any:
            with up_to_the_first_step():
                ending = train_command(folder, key)
            return judge(ending, names=("config",), begun=(folder / "run",))

        yield Attack("keys that are none", short(key), change)

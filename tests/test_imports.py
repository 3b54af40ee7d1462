"""Which module may import which, read from the sources; what stands in a function counts too."""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("cbam_flax", "data_prep", "studies")
FLAT = {path.stem for path in (ROOT / "cbam_flax").glob("*.py")} - {"__init__"}
# What each part of cbam_flax may import of the others; all of them may import data_prep.
ALLOWED = {
    "models": set(),
    "predict": set(),
    "evaluate": (FLAT - {"main", "loop"}) | {"models", "predict"},
    "export": (FLAT - {"main", "loop"}) | {"models", "predict", "evaluate"},
    "aot": (FLAT - {"main", "loop"}) | {"models"},
    "flat": FLAT | {"models", ""},
    "": {"evaluate", "loop", "logs", "predict", "version"},  # the Python interface, for main.py
}
# The only way from the loop to evaluation: the figures on the way.
TO_EVALUATE = {
    ("cbam_flax.loop", "cbam_flax.evaluate.validation.validate"),
}
LIGHT = {"models", "predict", "step", "sharding", "optimizer", "augment"}
HEAVY = {"tensorflow", "tensorflow_datasets", "clu.metric_writers"}
# The SavedModel needs TensorFlow to be run at all; only its own loader asks for it.
SAVED_MODEL = ("cbam_flax.predict.runtimes", "tensorflow")


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for one in PACKAGES for path in (ROOT / one).rglob("*.py")}


def imported_names(path: pathlib.Path) -> set[str]:
    """Dotted names that a module imports, down to the name after `import`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


NAMES = {module: imported_names(path) for module, path in MODULES.items()}


def module_of(name: str) -> str | None:
    """The module of this project that a dotted name lies in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


IMPORTS = {
    module: {found for name in names if (found := module_of(name))}
    for module, names in NAMES.items()
}


def part_of(module: str) -> str:
    """A folder or a flat module: `cbam_flax.predict.bundle` and `data_prep.cli` -> two names."""
    return ".".join(module.split(".")[:2])


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(reversed(error.args[1]))}")


def test_no_files_import_each_other():
    assert_no_circle(IMPORTS)


def test_no_folders_import_each_other():
    graph: dict[str, set[str]] = {}
    for module, found in IMPORTS.items():
        part = part_of(module)
        graph.setdefault(part, set()).update({part_of(other) for other in found} - {part})
    assert_no_circle(graph)


def test_nothing_imports_the_studies():
    for module, found in IMPORTS.items():
        if not module.startswith("studies"):
            assert not [other for other in found if other.startswith("studies")], module


def test_data_prep_imports_nothing_of_cbam_flax():
    for module, found in IMPORTS.items():
        if module.startswith("data_prep"):
            assert not [other for other in found if other.startswith("cbam_flax")], module


@pytest.mark.parametrize("part", ALLOWED)
def test_the_parts_import_what_lies_below_them(part):
    wrong = set()
    for module, names in NAMES.items():
        package, _, rest = module.partition(".")
        own = rest.partition(".")[0]
        if package != "cbam_flax" or part != ("flat" if own in FLAT else own):
            continue
        for name in names:
            other = (module_of(name) or "").removeprefix("cbam_flax").strip(".").partition(".")[0]
            if name.startswith("cbam_flax") and other != own and other not in ALLOWED[part]:
                wrong.add((module, name))
    assert wrong - TO_EVALUATE == set()


def test_models_import_only_the_frame_of_the_commands_of_data_prep():
    for module, found in IMPORTS.items():
        if part_of(module) == "cbam_flax.models":
            assert not [one for one in found - {"data_prep.cli"} if part_of(one) != part_of(module)]


def test_what_computes_imports_no_tensorflow():
    found = {
        (module, name)
        for module, names in NAMES.items()
        for name in names
        if part_of(module).removeprefix("cbam_flax.") in LIGHT
        and any(f"{name}.".startswith(f"{one}.") for one in HEAVY)
    }
    assert found <= {SAVED_MODEL}

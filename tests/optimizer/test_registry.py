import os
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Registry, UnknownKeyError


class Animal:
    pass


@pytest.fixture
def animals():
    registry = Registry("animal", Animal, entry_points="innerstep.animals")

    @registry.register("dog", aliases=("Hound",))
    class Dog(Animal):
        pass

    registry.dog = Dog
    return registry


def test_keys_and_aliases_are_found_without_regard_to_case(animals):
    assert animals["dog"] is animals["DOG"] is animals["hound"] is animals["Hound"]
    assert list(animals) == ["dog"]
    assert len(animals) == 1
    assert "DOG" in animals
    assert "cat" not in animals
    assert animals.key_of(animals["dog"]) == "dog"
    assert animals.aliases_of("dog") == ["Hound"]


def test_an_unknown_key_names_registry_nearest_keys_and_the_list(animals):
    with pytest.raises(UnknownKeyError) as unknown:
        animals["dgo"]
    assert isinstance(unknown.value, KeyError)
    assert str(unknown.value).startswith("unknown animal 'dgo'; did you mean 'dog'?")
    assert "innerstep list" in str(unknown.value)


def test_a_key_is_not_registered_twice(animals):
    for taken in ("dog", "Dog", "hound"):
        with pytest.raises(ValueError, match="taken"):

            @animals.register(taken)
            class Wolf(Animal):
                pass


def test_the_same_definition_met_again_replaces_itself(animals):
    again = type("Dog", (Animal,), {"__qualname__": animals.dog.__qualname__, "__module__": __name__})
    animals.register("dog")(again)
    assert animals["dog"] is again


def test_a_class_of_another_kind_is_refused(animals):
    with pytest.raises(TypeError, match=r"'table'.*is not a Animal"):

        @animals.register("table")
        class Table:
            pass


def test_a_dotted_path_stands_for_a_key(animals):
    assert animals["test_registry.Animal"] is Animal
    for path, message in [
        ("no_such_module.Dog", "cannot be imported"),
        ("test_registry.Dgo", "test_registry has no Dgo"),
        ("pathlib.Path", "is not a Animal"),
    ]:
        with pytest.raises(UnknownKeyError, match=message):
            animals[path]
    with pytest.raises(ValueError, match="dot"):
        animals.register("my.dog")(animals.dog)


def test_installed_plugins_are_loaded_once_when_first_needed(animals, monkeypatch):
    loads = []

    class Cat(Animal):
        pass

    class Entry(EntryPoint):
        def load(self):
            loads.append(self.name)
            return Cat

    def entry_points(group):
        return [Entry("cat", "somewhere:Cat", group)]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert animals["dog"]
    assert loads == []
    assert animals["cat"] is Cat
    assert list(animals) == ["dog", "cat"]
    assert loads == ["cat"]


def test_a_class_is_made_when_it_is_looked_up(animals):
    made = []

    def make():
        made.append(type("Cat", (Animal,), {}))
        return made[-1]

    animals.register_maker("cat", make, aliases=("Tom",))
    assert list(animals) == ["dog", "cat"]
    assert len(animals) == 2
    assert animals.aliases_of("cat") == ["Tom"]
    assert made == []
    assert animals["tom"] is animals["CAT"] is made[0]
    assert animals.key_of(made[0]) == "cat"
    assert len(made) == 1


@pytest.fixture
def named(animals, tmp_path, monkeypatch):
    """Name to `animals` a module with a class Cat and another line, which has the registry as `animals`."""

    def name(module, line):
        begin = "import test_registry\nanimals = test_registry.animals_of_test\nclass Cat(test_registry.Animal): pass\n"
        (tmp_path / f"{module}.py").write_text(f"{begin}{line}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys.modules[__name__], "animals_of_test", animals, raising=False)
        animals.add_modules([module])

    return name


def test_modules_are_imported_when_a_key_is_not_found_without_them(animals, named):
    named("cats_of_test", "animals.register('cat', aliases=('tom',))(Cat)")
    assert animals["dog"]
    assert "cats_of_test" not in sys.modules
    with pytest.raises(ValueError, match=r"'tom' is taken by cats_of_test\.Cat"):
        animals.register("tom")(type("Tom", (Animal,), {}))
    assert list(animals) == ["dog", "cat"]


def test_adapters_of_the_modules_come_before_those_of_the_user(animals, named):
    named("adapters_of_test", "animals.adapt(int, lambda path, cls: Cat)")
    animals.adapt(int, lambda path, cls: Animal)
    assert animals["builtins.bool"].__name__ == "Cat"


def test_a_scheduler_of_a_library_is_found_before_any_optimizer(tmp_path):
    (tmp_path / "library.py").write_text("from torch.optim.lr_scheduler import StepLR\nclass Mine(StepLR): pass\n")
    code = (
        "from optimizer import SCHEDULE_REGISTRY as keys\n"
        "assert keys['library.Mine'](step_size=2).bind(1.0).lr_at(2) == 0.1\n"
        "assert keys['torch.optim.lr_scheduler.StepLR'] is keys['StepLR']\n"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr


def test_a_class_of_pytorch_is_pickled_and_found_in_its_module(tmp_path):
    path = tmp_path / "pickled"
    schedule = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.1, schedule={"type": "StepLR", "step_size": 3})
    path.write_bytes(pickle.dumps(schedule))
    code = (
        f"import pickle; found = pickle.load(open({str(path)!r}, 'rb'))\n"
        "from optimizer.factories.torch_optim import SGDFactory\n"
        "from optimizer.schedules.pytorch import SWALR, StepLR\n"
        "from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY\n"
        "assert type(found) is SGDFactory is OPTIMIZER_BUILDER_REGISTRY['sgd']\n"
        "assert type(found.schedule) is StepLR and SCHEDULE_REGISTRY['SWALR'] is SWALR\n"
        "from optimizer.factories.torch_optim import NoFactory"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: cannot import name 'NoFactory'" in done.stderr


def test_a_factory_is_whatever_builds():
    class Mine:
        def build(self, params, horizon=None):
            raise NotImplementedError

    sys.modules[__name__].Mine = Mine
    assert OPTIMIZER_BUILDER_REGISTRY["test_registry.Mine"] is Mine
    with pytest.raises(UnknownKeyError, match="is not a OptimizerFactory"):
        OPTIMIZER_BUILDER_REGISTRY["test_registry.Animal"]


def test_a_registry_is_complete_when_its_module_alone_is_imported():
    code = (
        "from optimizer.factories.base import OPTIMIZER_BUILDER_REGISTRY as optimizers\n"
        "from optimizer.schedules.base import SCHEDULE_REGISTRY as schedules\n"
        "before = [*optimizers, *schedules]\n"
        "import optimizer\n"
        "optimizer.torch_factory  # imports all public names\n"
        "assert before == [*optimizers, *schedules] and 'schedule_free_radam' in before, before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

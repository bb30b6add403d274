"""What operators are handed fits what the program takes: unit, compose file, ledger's configuration, and pages."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml

from redis_servers import server_binaries
from scanengine.cli.commands import cli
from scanengine.keys import load_keyring
from scanengine.ledger.redis.health import durability_of
from scanengine.program.publishing import create_workspace
from scanengine.program.settings import ServerSettings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGES = (ROOT / "docs" / "deployment.md", ROOT / "docs" / "backup.md")


def check_command(words: list[str]) -> dict[str, Any]:
    """Parse a command line of ours, which names its workspace, as the program would; return the options."""
    assert words[0] == "-w"
    command: click.Command = cli
    left = words[2:]
    while isinstance(command, click.Group):
        command = command.commands[left.pop(0)]
    return command.make_context(str(command.name), left, parent=click.Context(cli)).params


def unit() -> dict[str, list[str]]:
    """Return the settings of the systemd unit."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "scanengine.service").read_text().splitlines():
        if not line.startswith("#") and "=" in line:
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def test_the_unit_starts_what_the_program_takes() -> None:
    settings = unit()
    (start,) = settings["ExecStart"]
    program, *words = shlex.split(start)
    assert program.endswith("/bin/scanengine")
    options = check_command(words)
    assert (options["host"], options["port"]) == ("127.0.0.1", 8080)
    workspace = words[words.index("-w") + 1]
    assert any(workspace.startswith(folder) for folder in settings["ReadWritePaths"])


def test_the_unit_gives_the_service_no_more_than_it_needs() -> None:
    settings = unit()
    expected = {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "UMask": "0077",
        "CapabilityBoundingSet": "", "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6", "User": "scanengine",
        "StateDirectoryMode": "0700", "Restart": "on-failure",
    }  # fmt: skip
    assert {name: settings[name][0] for name in expected} == expected
    assert int(settings["LimitNOFILE"][0]) >= 65_536
    # The longest timeout_s that the settings take, and what requests in progress may take beyond it.
    assert int(settings["TimeoutStopSec"][0]) >= 60 + 5 + 2


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Where systemd is: every line is one that it knows. Only its program is put in a place where there is one."""
    verify = shutil.which("systemd-analyze")
    text = (DEPLOY / "scanengine.service").read_text()
    names = {line.partition("=")[0] for line in text.splitlines() if re.match(r"[A-Z]\w+=", line)}
    assert len(names) > 30
    if verify is None:
        return
    program = tmp_path / "scanengine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / "scanengine.service"
    copy.write_text(text.replace("/opt/scanengine/bin/scanengine", str(program)))
    done = subprocess.run([verify, "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False)
    about_us = [line for line in done.stderr.splitlines() if copy.name in line and "Unknown" in line]
    assert about_us == []


def test_the_compose_file_starts_what_the_program_takes(compose: dict[str, Any]) -> None:
    service = compose["services"]["scanengine"]
    options = check_command(service["command"])
    assert options["host"] == "0.0.0.0"
    assert options["durability"] == "strict"
    assert options["workers"] > 1
    target = service["volumes"][0].rpartition(":")[2]
    assert service["command"][:2] == ["-w", target]
    assert service["environment"]["SCANENGINE_LEDGER"].startswith("redis://valkey:")
    assert service["read_only"] is True
    dockerfile = DEPLOY.parent / service["build"]["dockerfile"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile.read_text(), re.MULTILINE)
    assert [name for names in copied for name in names.split() if not (ROOT / name).exists()] == []
    (default,) = re.findall(r"^CMD (\[.*\])$", dockerfile.read_text(), re.MULTILINE)
    check_command(msgspec.json.decode(default, type=list[str]))


def test_the_services_of_the_compose_file_find_each_other(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("depends_on", ())) <= set(services)
        assert service["restart"] == "unless-stopped"
        # Only the proxy can be reached from outside.
        assert ("ports" in service) == (name == "caddy")
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("$"):
                assert source in compose["volumes"]
    proxy = (DEPLOY / "Caddyfile").read_text()
    assert "reverse_proxy scanengine:8080" in proxy
    assert "{$SCAN_HOST}" in proxy
    assert "SCAN_HOST" in services["caddy"]["environment"]


def test_the_proxies_keep_back_ends_and_counters_off_the_public_site() -> None:
    """Goal: nobody on the Internet reaches them, even while no token is set. Method: each example refuses the paths."""
    (matched,) = re.findall(r"^\s*@inside path (.+)$", (DEPLOY / "Caddyfile").read_text(), re.MULTILINE)
    assert {"/v1/*", "/metrics", "/readyz"} <= set(matched.split())
    assert "respond @inside 404" in (DEPLOY / "Caddyfile").read_text()
    (nginx,) = re.findall(r"^```text\n(location .*?)^```$", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    refused = re.findall(r"^location (.+?) +\{ return 404; \}$", nginx, re.MULTILINE)
    assert {"/v1/", "= /metrics", "= /readyz"} <= set(refused)


def test_the_steps_for_systemd_make_a_token_that_the_program_takes(tmp_path: Path) -> None:
    """Goal: the server is never without one behind its proxy. Method: run the line of the page on a new workspace."""
    (block,) = [
        found for found in re.findall(r"^```sh\n(.*?)^```$", PAGES[0].read_text(), re.M | re.S) if "useradd" in found
    ]
    (line,) = [line for line in block.splitlines() if "[[tokens]]" in line]
    assert block.index(line) < block.index("systemctl enable")
    create_workspace(tmp_path / "shop")
    keys = tmp_path / "shop" / "keys.toml"
    assert not load_keyring(keys).has_tokens
    command = line.replace("/var/lib/scanengine/shop", str(tmp_path / "shop"))
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=60)
    assert load_keyring(keys).has_tokens
    (token,) = re.findall(r'^token = "(.+)"$', keys.read_text(), re.MULTILINE)
    assert len(token) >= 32


def test_the_proxy_of_the_compose_file_is_one_that_can_be_trusted(compose: dict[str, Any]) -> None:
    (network,) = compose["networks"]["inside"]["ipam"]["config"]
    assert ip_network(network["subnet"]).is_private
    assert ServerSettings(trusted_proxies=(network["subnet"],)).trusted_proxies
    page = PAGES[0].read_text()
    assert f'trusted_proxies = ["{network["subnet"]}"]' in page


def configuration() -> dict[str, str]:
    lines = [line.split(None, 1) for line in (DEPLOY / "valkey.conf").read_text().splitlines()]
    return {words[0]: words[1].strip('"') for words in lines if words and not words[0].startswith("#")}


def test_the_configuration_of_the_ledger_promises_what_the_server_asks_for() -> None:
    assert durability_of(configuration()) == "strict"
    assert durability_of(configuration() | {"appendfsync": "everysec"}) == "everysec"


@pytest.mark.parametrize("name", sorted(server_binaries()))
def test_a_real_server_takes_the_configuration(name: str, tmp_path: Path) -> None:
    """Goal: no line is one that a server does not know. Method: a server that reads it, and then cannot listen."""
    text = (DEPLOY / "valkey.conf").read_text().replace("dir /data", f"dir {tmp_path}")
    text = re.sub(r"^bind .*$", "bind 192.0.2.1", text, flags=re.MULTILINE)
    path = tmp_path / "valkey.conf"
    path.write_text(text)
    done = subprocess.run(
        [str(server_binaries()[name]), str(path), "--port", "1", "--logfile", ""],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "FATAL CONFIG" not in said, said
    assert "192.0.2.1" in said, said


def test_the_pages_name_files_that_are_there() -> None:
    for page in PAGES:
        named = re.findall(r"`(deploy/[\w./]+)`", page.read_text())
        assert [name for name in named if not (ROOT / name).exists()] == []
    assert "deploy/scanengine.service" in PAGES[0].read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_the_pages_are_ours(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command line of ours on the page is one that the program parses; it looks whether files to read exist."""
    (tmp_path / "replies.ndjson").touch()
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    commands = [
        line.partition("scanengine -w ")[2]
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if "scanengine -w " in line
    ]
    assert commands
    for command in commands:
        words = shlex.split(re.split(r"\s+[|>&]|\s+#", command)[0])
        check_command(["-w", *words])

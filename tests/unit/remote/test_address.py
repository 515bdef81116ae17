from pathlib import Path

import pytest

from autoseg.errors import RemoteError
from autoseg.remote.address import EXTRAS, check_url, find_url, hide_secrets
from autoseg.remote.store import Store


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/Dataset004",
        "gs://bucket/runs/x.autoseg",
        "az://container@account/x",
        "ssh://user@host:22/data",
        "file:///data/x",
        "memory://x",
    ],
)
def test_an_argument_that_pathlib_has_shortened_is_the_url_again(url: str) -> None:
    assert find_url(Path(url)) == url


@pytest.mark.parametrize("path", ["runs/x.autoseg", "/data/s3/x", "C:/data", "C:\\data", "s3:", "a:b"])
def test_local_paths_are_no_urls(path: str) -> None:
    assert find_url(Path(path)) is None


def test_a_folder_that_exists_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s3:/bucket").mkdir(parents=True)
    assert find_url(Path("s3://bucket")) is None
    assert find_url(Path("s3://other")) == "s3://other"


@pytest.mark.parametrize(
    "url",
    [
        "ssh://me:hunter2@host/data",
        "ssh://me:p@hunter2@host/data",
        "az://box/x?sig=hunter2",
        "https://host/x?X-Amz-Signature=hunter2",
        "https://host/x?access_token=hunter2",
        "https://host/x?version=1&api_key=hunter2",
    ],
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(RemoteError, match="may hold no password") as refused:
        check_url(url)
    assert "hunter2" not in str(refused.value)


def test_secrets_are_hidden_in_any_text() -> None:
    text = "GET https://host/a?X-Amz-Signature=hunter2 via ssh://me:hunter2@host failed"
    assert hide_secrets(text) == "GET https://host/a?... via ssh://...@host failed"


@pytest.mark.parametrize("url", ["s3://", "zip://a::s3://b/c.zip"])
def test_other_texts_are_refused(url: str) -> None:
    with pytest.raises(RemoteError, match="expected a URL such as"):
        check_url(url)


@pytest.mark.parametrize("protocol", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra, package = EXTRAS[protocol]
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(RemoteError) as refused:
        Store(f"{protocol}://bucket/x")
    assert f"needs the package {package}" in str(refused.value)
    assert f"pip install 'autoseg[{extra}]'" in str(refused.value)


def test_every_protocol_has_an_extra_of_the_project() -> None:
    path = Path(__file__).resolve().parents[3] / "pyproject.toml"
    extras = __import__("tomllib").loads(path.read_text())["project"]["optional-dependencies"]
    for extra, package in EXTRAS.values():
        assert [name for name in extras[extra] if name.startswith(package)] == extras[extra]


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(RemoteError, match="nonsense"):
        Store("nonsense://bucket/x")

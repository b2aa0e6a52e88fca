import pytest


@pytest.fixture(scope="session")
def hf_folder(esconv_folder, tmp_path_factory):
    """A folder with the Hugging Face files of the real corpus."""
    folder = tmp_path_factory.mktemp("hf")
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").symlink_to(esconv_folder / f"hf_{name}.txt")
    return folder

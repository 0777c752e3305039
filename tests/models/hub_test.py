import huggingface_hub
import pytest

from taskvec_jax.models import hub


def _hub(monkeypatch, folder, files, is_online=True):
  """Puts a repository in the hub's place; returns the revisions asked for."""
  asked = []

  def snapshot_download(name, *, revision, allow_patterns, local_files_only):
    assert name == 'owner/clip'
    asked.append(revision)
    if not is_online and not local_files_only:
      raise ConnectionError('no network.\nand more about it')
    if not is_online and not folder.exists():
      raise FileNotFoundError('nothing cached')
    folder.mkdir(exist_ok=True)
    if not local_files_only:
      for file in files:
        if any((folder / file).match(pattern) for pattern in allow_patterns):
          (folder / file).touch()
    return str(folder)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
  return asked


def test_a_local_path_is_taken_as_it_is(tmp_path, monkeypatch):
  asked = _hub(monkeypatch, tmp_path, [])
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'owner' / 'clip').mkdir(parents=True)
  assert hub.fetch('owner/clip').resolve() == tmp_path / 'owner' / 'clip'
  assert not asked


@pytest.mark.parametrize(
    'files, expected',
    [
        (
            ['model.safetensors', 'flax_model.msgpack', 'pytorch_model.bin'],
            ['config.json', 'model.safetensors'],
        ),
        (
            ['flax_model.msgpack', 'pytorch_model.bin', 'tf_model.h5'],
            ['config.json', 'flax_model.msgpack'],
        ),
        (
            [
                'model-00001-of-00002.safetensors',
                'model-00002-of-00002.safetensors',
                'model.safetensors.index.json',
            ],
            [
                'config.json',
                'model-00001-of-00002.safetensors',
                'model-00002-of-00002.safetensors',
                'model.safetensors.index.json',
            ],
        ),
        (
            ['open_clip_model.safetensors', 'open_clip_pytorch_model.bin'],
            ['config.json', 'open_clip_model.safetensors'],
        ),
    ],
)
def test_one_format_is_downloaded_and_never_a_pickle(
    tmp_path, monkeypatch, files, expected
):
  _hub(monkeypatch, tmp_path / 'hub', ['config.json', *files])
  folder = hub.fetch('owner/clip')
  assert sorted(path.name for path in folder.iterdir()) == expected


def test_what_was_downloaded_before_is_used_without_a_network(
    tmp_path, monkeypatch
):
  _hub(monkeypatch, tmp_path / 'hub', ['flax_model.msgpack'])
  folder = hub.fetch('owner/clip')
  _hub(monkeypatch, tmp_path / 'hub', [], is_online=False)
  assert hub.fetch('owner/clip') == folder


def test_without_network_and_file_one_sentence_says_what_to_put_where(
    tmp_path, monkeypatch
):
  _hub(monkeypatch, tmp_path / 'hub', [], is_online=False)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
      ValueError,
      match=r"'owner/clip'.*\(no network\); put config.json with"
      rf' model.safetensors or.*into {tmp_path}/owner/clip\.$',
  ):
    hub.fetch('owner/clip')


def test_a_repository_of_pickles_alone_is_refused(tmp_path, monkeypatch):
  _hub(monkeypatch, tmp_path / 'hub', ['config.json', 'pytorch_model.bin'])
  with pytest.raises(ValueError, match='pickles are never read'):
    hub.fetch('owner/clip')
  assert [path.name for path in (tmp_path / 'hub').iterdir()] == ['config.json']


@pytest.mark.parametrize(
    'name, revision',
    [('owner/clip', None), ('owner/clip@refs/pr/66', 'refs/pr/66')],
)
def test_a_revision_follows_the_name(tmp_path, monkeypatch, name, revision):
  asked = _hub(monkeypatch, tmp_path / 'hub', ['model.safetensors'])
  assert hub.fetch(name) == tmp_path / 'hub'
  assert asked == [revision]


def test_what_is_neither_a_path_nor_a_repository_is_not_asked_for(
    tmp_path, monkeypatch
):
  asked = _hub(monkeypatch, tmp_path / 'hub', [])
  with pytest.raises(ValueError, match='not the name of a repository'):
    hub.fetch(tmp_path / 'absent' / 'weights')
  assert not asked

"""Commands that launch/*.sh call, faked: first on the PATH, they note the call.

Every fake appends its words to the file `calls`, one JSON list a call. A fake
TPU VM is a folder a worker: gcloud's ssh runs its command in each of them.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]

_HEAD = """
import json, os, pathlib, shutil, subprocess, sys, time
fake = pathlib.Path(os.environ['FAKE'])
words = sys.argv[1:]
def note(name):
  with open(fake / 'calls', 'a') as file:
    file.write(json.dumps([name, *words]) + '\\n')
def setting(name, default=''):
  path = fake / name
  return path.read_text() if path.exists() else default
"""

_PROGRAMS = {
    # Its version check answers what the test says; an environment is a copy of
    # itself; a run prints its words and waits while there is a file `hold`.
    'python3': """
        if words[0] == '-c':
          sys.exit(int(setting('old_python', '0')))
        if words[:2] == ['-m', 'taskvec_jax.main']:
          note('main')
          (fake / 'session').write_text(str(os.getsid(0)))
          print('words', words[2:], 'on', os.environ.get('JAX_PLATFORMS'))
          print(os.environ.get('XLA_FLAGS'), file=sys.stderr)
          sys.stdout.flush()
          while (fake / 'hold').exists():
            time.sleep(0.01)
          sys.exit(int(setting('code', '0')))
        note(sys.argv[0] if '.venv' in sys.argv[0] else 'python3')
        if words[1] == 'venv' or words[1:3] == ['uv', 'venv']:
          (pathlib.Path(words[-1]) / 'bin').mkdir(parents=True)
          shutil.copy(sys.argv[0], pathlib.Path(words[-1]) / 'bin' / 'python')
        elif words[1] == 'pip':
          sys.exit(int(setting('pip_code', '0')))
        """,
    'nvidia-smi': """
        note('nvidia-smi')
        print(setting('gpus'), end='')
        sys.exit(0 if setting('gpus') else 9)
        """,
    'srun': """
        note('srun')
        sys.exit(int(setting('code', '0')))
        """,
    'gcloud': """
        note('gcloud')
        verb = words[3]
        code = int(setting('code_of_' + verb, '0'))
        print(setting('said_of_' + verb), end='', file=sys.stderr)
        if code:
          sys.exit(code)
        state = fake / 'state'
        if verb == 'create':
          state.write_text('READY\\\\n')
        elif not state.exists():
          sys.exit('NOT_FOUND')
        elif verb == 'describe':
          print(state.read_text(), end='')
        elif verb == 'delete':
          state.unlink()
        workers = sorted(fake.glob('worker*'))
        if '--worker=0' in words:
          workers = workers[:1]
        codes = [0]
        for worker in workers:
          if verb == 'ssh':
            (command,) = [
                w.removeprefix('--command=')
                for w in words if w.startswith('--command=')
            ]
            # gcloud takes it apart at blanks and ssh joins it again.
            command = ' '.join(command.split(' '))
            codes.append(
                subprocess.run(
                    ['bash', '-c', command],
                    cwd=worker,
                    env={**os.environ, 'HOME': str(worker)},
                ).returncode
            )
          elif verb == 'scp' and '--recurse' in words:
            source, target = words[5], words[6]
            shutil.copytree(
                worker / source.partition(':')[2],
                pathlib.Path(target) / pathlib.Path(source).name,
                dirs_exist_ok=True,
            )
          elif verb == 'scp':
            shutil.copy(words[4], worker / words[5].partition(':')[2])
        sys.exit(next((c for c in codes if c), 0))
        """,
}


# What the scripts call besides; nothing else of this machine is on the PATH, no
# Python above all.
_TOOLS = (
    *('bash', 'cat', 'cksum', 'date', 'dirname', 'flock', 'gzip', 'hostname'),
    *('mkdir', 'mktemp', 'mv', 'nohup', 'rm', 'sed', 'setsid', 'sort', 'tail'),
    *('tar', 'true'),
)


class Machine:
  """A folder with fakes on the PATH of what `run` runs.

  `package` is the package's folder, with the real scripts and no code.
  """

  def __init__(self, folder: pathlib.Path, *programs: str):
    """Makes the fakes of these names in `folder`."""
    self.package = folder / 'the package'  # as a folder may well be called
    (self.package / 'launch').mkdir(parents=True)
    for script in (ROOT / 'launch').glob('*.sh'):
      shutil.copy(script, self.package / 'launch')
    for name in ('README.md', 'LICENSE', 'setup.py', 'pyproject.toml'):
      (self.package / name).write_text(name)
    for name in ('taskvec_jax/main.py', 'configs/ffn.py'):
      (self.package / name).parent.mkdir()
      (self.package / name).write_text(name)
    self.fake = folder / 'fake'
    (self.fake / 'bin').mkdir(parents=True)
    for name in _TOOLS:
      found = shutil.which(name)
      assert found, f'{name} is missing on this machine'
      (self.fake / 'bin' / name).symlink_to(found)
    for name in programs:
      path = self.fake / 'bin' / name
      body = textwrap.dedent(_PROGRAMS[name])
      path.write_text(f'#!{sys.executable} -IS\n{_HEAD}{body}')
      path.chmod(0o755)
    self.cwd = folder
    self.env = {
        'PATH': str(self.fake / 'bin'),
        'HOME': str(folder),
        'TMPDIR': str(folder),
        'FAKE': str(self.fake),
    }

  def run(self, script, *words: str, **env: str):
    """Returns what a script answered, standard output and error apart."""
    return subprocess.run(
        [str(self.fake / 'bin' / 'bash'), str(script), *words],
        cwd=self.cwd,
        env={**self.env, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

  def calls(self, name: str = '') -> list[list[str]]:
    """Returns the words of all calls so far, or of those of one program."""
    path = self.fake / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    calls = [json.loads(line) for line in lines]
    return [call for call in calls if not name or call[0].endswith(name)]

  def set(self, name: str, value: str | int = ''):
    """Sets what a fake answers."""
    (self.fake / name).write_text(str(value))

  def unset(self, name: str):
    """Takes that back."""
    os.unlink(self.fake / name)

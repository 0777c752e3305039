"""The suite in an environment of its own, with the newest JAX of a Python.

  nox --session tests                                with this Python
  nox --session tests --force-python python3.13      with another

JAX newer than 0.10.2 needs Python 3.12 or newer.
"""

import nox


@nox.session
def tests(session: nox.Session) -> None:
  """Installs what the index has newest, and runs the suite."""
  session.install('--upgrade', '--editable', '.[test]')
  session.run('python', '-c', 'import jax; print("jax", jax.__version__)')
  session.run('pytest', *session.posargs)

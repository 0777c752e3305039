"""Who the processes of a run are, as flags and the environment say."""

from collections.abc import Mapping
import importlib.util
import os
from typing import NamedTuple


class Cluster(NamedTuple):
  """How the processes of a run find each other."""

  coordinator: str | None  # HOST:PORT of process 0; None: JAX finds it
  num_processes: int | None  # None: JAX finds it
  process_id: int | None  # None: JAX finds it, or all are started here
  local: bool = False  # all processes are started here, by one command


def find(
    coordinator: str,
    num_processes: int | None,
    process_id: int | None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Cluster | None:
  """Returns what flags and environment say of a cluster; None: one process.

  Args:
    coordinator: HOST:PORT, or ''.
    num_processes: N, or None.
    process_id: 0 .. N - 1, or None.
    environ: of this process.

  Raises:
    ValueError: one sentence, for flags that do not fit together.
  """
  if num_processes is not None and num_processes < 1:
    raise ValueError(
        f'--num_processes is {num_processes}, but must be at least 1'
    )
  if not coordinator and process_id is None:
    if num_processes is None:
      return Cluster(None, None, None) if _is_in_cluster(environ) else None
    return (
        Cluster(None, num_processes, None, True) if num_processes > 1 else None
    )
  given = {
      '--coordinator': coordinator or None,
      '--num_processes': num_processes,
      '--process_id': process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if missing or num_processes is None or process_id is None:
    raise ValueError(
        f'{" and ".join(n for n in given if n not in missing)} needs'
        f' {" and ".join(missing)} too; a cluster is'
        ' --coordinator=HOST:PORT --num_processes=N --process_id=I, and'
        ' --num_processes=N alone starts all of them here'
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
        f'--process_id is {process_id}, but must lie in 0 ..'
        f' {num_processes - 1} for --num_processes={num_processes}'
    )
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise ValueError(
        f'--coordinator is {coordinator!r}, but must be HOST:PORT, the host of'
        ' process 0 and a free port there'
    )
  return Cluster(coordinator, num_processes, process_id)


def _is_in_cluster(environ: Mapping[str, str]) -> bool:
  """Returns whether this is a Slurm step of several tasks, or a TPU host.

  Never true by accident: a Slurm batch script outside of `srun` is one process,
  and so is a machine without TPU chips, whatever is installed.
  """
  tasks = environ.get('SLURM_STEP_NUM_TASKS', '1')
  if tasks.isdecimal() and int(tasks) > 1:
    return True
  if 'tpu' not in environ.get('JAX_PLATFORMS', 'tpu'):
    return False
  if not importlib.util.find_spec('libtpu'):
    return False
  hosts = environ.get('TPU_WORKER_HOSTNAMES')
  if hosts is not None:
    return ',' in hosts
  # A TPU VM of Google Cloud, whose metadata server JAX asks for the others. JAX
  # sets TPU_SKIP_MDS_QUERY where there is no chip; others, where no server is.
  has_chips = any(map(os.path.exists, ('/dev/accel0', '/dev/vfio/0')))
  return has_chips and 'TPU_SKIP_MDS_QUERY' not in environ

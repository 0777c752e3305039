"""Who the processes of a run are."""

import pytest

from taskvec_jax.processes import cluster


@pytest.mark.parametrize(
    ('coordinator', 'num_processes', 'process_id', 'said'),
    [
        (
            'a:1',
            None,
            None,
            '--coordinator needs --num_processes and --process_',
        ),
        (
            'a:1',
            2,
            None,
            '--coordinator and --num_processes needs --process_id',
        ),
        ('', 2, 0, '--num_processes and --process_id needs --coordinator'),
        ('', None, 1, '--process_id needs --coordinator and --num_processes'),
        ('a:1', 2, 2, r'--process_id is 2, but must lie in 0 \.\. 1'),
        ('a:1', 2, -1, r'--process_id is -1, but must lie in 0 \.\. 1'),
        ('', 0, None, '--num_processes is 0, but must be at least 1'),
        ('a', 2, 0, "--coordinator is 'a', but must be HOST:PORT"),
        (':1', 2, 0, "--coordinator is ':1'"),
        ('a:b', 2, 0, "--coordinator is 'a:b'"),
        ('a:70000', 2, 0, "--coordinator is 'a:70000'"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(
    coordinator, num_processes, process_id, said
):
  with pytest.raises(ValueError, match=said):
    cluster.find(coordinator, num_processes, process_id, environ={})


def test_one_process_is_one_unless_flags_or_a_slurm_step_say_otherwise():
  batch = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2', 'SLURM_PROCID': '0'}
  for environ in ({}, batch, batch | {'SLURM_STEP_NUM_TASKS': '1'}):
    assert cluster.find('', None, None, environ=environ) is None
  step = batch | {'SLURM_STEP_NUM_TASKS': '2'}
  found = cluster.find('', None, None, environ=step)
  assert found == cluster.Cluster(None, None, None)
  assert cluster.find('', 1, None, environ={}) is None
  assert cluster.find('', 3, None, environ={}).local
  assert cluster.find('a:80', 3, 1, environ={}) == ('a:80', 3, 1, False)

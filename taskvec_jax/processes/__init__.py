"""A run of several processes: who they are, and what happens if one dies.

The same command is started on every host. JAX finds the others on a TPU pod
and in a Slurm step; elsewhere flags name them (`cluster`). Each command starts
itself once more as a child, which joins the cluster and runs (`child`); the
parent waits (`parent`). That is because JAX ends a process that lost a peer
without a word that Python could catch:

  a child is killed -> its parent names it, and tells the other parents
                       (`notices`), which end their children and name it too
  a host is lost    -> the coordination service in process 0 misses its sign of
                       life for HEARTBEAT_SECONDS and says so to all children,
                       which JAX ends; their parents read which process it was
                       from their last words, and name it with its host
  a parent is lost  -> its child sees the end of a pipe, and ends as well; to
                       the others it is a lost host

so every process has ended, and every host has been told which one died, within
60 s. With a number of processes alone all are started here, and their one
parent ends the others at once. Whatever was finished is in the work folder.
"""

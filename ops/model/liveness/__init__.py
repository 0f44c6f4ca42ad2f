"""Every rule by which a member may be removed from a group, and nothing else. Pure: no clock, no I/O.

A member leaves a group in one of these ways:

==========================  ==============================================  ==========================================
who removes it              when                                            the rule
==========================  ==============================================  ==========================================
``reap_stale``              its process was judged dead, no safety stop     ``evidence``, ``suspicion``, ``lease`` ->
                            holds, and it has not joined again since        ``judge`` -> ``stops`` -> ``plan`` ->
                                                                            ``judgement``, then
                                                                            ``store/lua/purge_members.lua``
``replay_disconnects        a record in the disconnect log proves that its  ``recorded_ends`` -> ``judgement``, then the
--cleanup``                 connection ended, and it has not joined since   same script
its own process, with the   the consumer that made its channel has ended    ``abandoned``
drop-in layer               and nobody receives on it
its own process, with the   the process exits, or knows that the channel    none: a process's own memberships, by its
drop-in layer               left and Redis has it still                     own word
the application             it calls ``group_discard()`` or ``flush()``     none: Channels' own
any sender                  it joined longer than ``group_expiry`` ago      none: channels_redis' own, by age alone
==========================  ==============================================  ==========================================

Nothing else in the toolkit removes a member. Each of the first two writes a receipt, which ``--undo`` reads.
"""

"""The soak: tunnels under random faults, held against everything that is promised.

Theory of operation
-------------------

Several *lanes*, each with a tunnel, a proxy of its own and a plan of faults, send numbered messages
and requests to a gateway in another process, which sends them back and notes in a file what its
handler got. Faults are drawn from the seed; their course in time is not repeatable, what happens in
which order to a lane is. There are two gateways: a *steady* one, which is stopped and continued,
and a *mortal* one, which is also killed and started again.

The kinds of lanes, and what is promised in each:

* ``resuming`` (steady gateway): everything arrives once and in order, both ways.
* ``mortal`` (mortal gateway): a message is noted once, or handed back by `SessionLostError`.
* ``plain`` (mortal gateway, no session): order is kept, nothing comes twice.
* ``fleeting`` (steady gateway): short-lived tunnels; what `disconnect` did not report was noted.

Time goes in rounds: faults for a while, then calm. In the calm everything that was accepted has to
get through in bounded time, and then numbers, statistics, threads, descriptors and memory are
looked at; the first calm is the base line of the others. Histories, errors, order and doubles are
checked as they come.
"""

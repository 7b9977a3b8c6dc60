"""Session backends: processes that run while somebody needs them, one for a key.

Arrows run downwards only:

    client                        a process's half: what it wants to be run, what runs
    worker                        the manager as the worker of a host of its own
    trigger                       runs a command for a topic when its logs have grown
    serving                       the two listeners
    connection                    what of a connection is taken for a request
    api, overview, page           control over HTTP; what somebody sees who looks on; the page
    proxy, tunnel, headers        the way to backends, by token
    answers, streams              errors and server-sent events over HTTP
    manager                       who gets which backend, and when it has to go
    launcher, routes              getting backends of an engine; by which token they are reached
    ledger, record                all backends; one of them
    history, idle                 its states, and who follows them; when nobody needs it
    process, plane                the engines: processes of this machine; a cluster
    backend, spares, leavings     one with its monitor; monitors that wait; what a lost one leaves
    monitor, run                  the process around one backend; the command in it
    spawning, readiness, feed     how that starts, is ready, hears, and has its end
    output, bounds, life
    orders                        what an engine and a monitor say to each other
    remote, cluster, dialects     one backend of a cluster; requests to it; how they are written
    family, cgroups, sse          processes, control groups, server-sent events
    store, tokens                 what survives the manager; secrets
    engine                        what a manager asks of an engine, and is told by it
    wellformed, http_limits       which HTTP is taken; how much of it
    types, errors, limits, urls
"""

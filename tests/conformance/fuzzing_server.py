"""The Autobahn testsuite's fuzzing server, on loopback only. The one file here for Python 2.7.

Usage: python2.7 fuzzing_server.py PACKAGES SPECIFICATION. Prints one line once it listens, and ends
when its standard input does. Its own command line would listen on every address of the machine.
"""

import json
import site
import sys
import threading

packages, specification = sys.argv[1:]
site.addsitedir(packages)  # unlike PYTHONPATH this reads the .pth files of namespace packages
sys.path.insert(0, packages)

from autobahntestsuite.fuzzing import FuzzingServerFactory  # noqa: E402
from twisted.internet import reactor  # noqa: E402


def stop_with_parent():
    """Read standard input to its end, which comes when the process that has started us is gone."""
    sys.stdin.read()
    reactor.callFromThread(reactor.stop)


with open(specification) as file:
    factory = FuzzingServerFactory(json.load(file))
reactor.listenTCP(factory.port, factory, interface="127.0.0.1")
watcher = threading.Thread(target=stop_with_parent)
watcher.daemon = True
watcher.start()
print("listening")
sys.stdout.flush()
reactor.run()

"""The cluster's DNS: ``SERVICE.NAMESPACE.svc.cluster.local``, asked of the API server."""

from __future__ import annotations

import sys
import time
from typing import Any

import kr8s
from dnslib import QTYPE, RCODE, RR, A
from dnslib.server import BaseResolver, DNSServer

DOMAIN = ["svc", "cluster", "local"]


class Services(BaseResolver):  # type: ignore[misc]
    def resolve(self, request: Any, handler: Any) -> Any:
        reply = request.reply()
        service, namespace, *domain = [*str(request.q.qname).rstrip(".").split("."), "", ""][:5]
        found = None
        if domain == DOMAIN and request.q.qtype == QTYPE.A:
            found = next(iter(kr8s.get("services", service, namespace=namespace)), None)
        if found is not None:
            reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=5, rdata=A(found.spec.clusterIP)))
        else:
            reply.header.rcode = RCODE.NXDOMAIN
        return reply


if __name__ == "__main__":
    DNSServer(Services(), address=sys.argv[1], port=53).start_thread()
    while True:
        time.sleep(60)

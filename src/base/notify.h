/*
 * Telling a service manager how it goes: the readiness protocol of systemd (sd_notify(3)), which others speak as well.
 *
 * A process that was started by nobody who wants to know says nothing and loses nothing.
 */
#ifndef PRECIS_BASE_NOTIFY_H
#define PRECIS_BASE_NOTIFY_H

#include "base/status.h"

/* Send lines such as "READY=1\nSTATUS=serving" to the socket of $NOTIFY_SOCKET, at most 1023 bytes. False when there is
 * none, or nobody listens there. Thread-safe while the environment is left alone; does not block. */
bool pr_notify(const char *fmt, ...) PR_PRINTF(1, 2);

/* How often, in seconds, the manager wants to hear "WATCHDOG=1" of this very process, before it takes it for hung; 0: it
 * does not. Half of that is a good interval. */
double pr_notify_watchdog_seconds(void);

#endif

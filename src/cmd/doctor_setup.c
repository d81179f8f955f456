/*
 * precis doctor: what a server is set up with.
 *
 * Settings are read as `precis serve` reads them. The address is tried by taking it for a moment; where that fails because
 * it is taken, it is asked who is there.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/client.h"
#include "cmd/doctor.h"
#include "cmd/runfile.h"
#include "http/keys.h"

enum { SERVERS_MAX = 16, ANSWER_SECONDS = 2 };

static void look_at_settings(pr_doctor *d) {
    static const char system_file[] = "/etc/precis/precis.conf";
    char path[PR_SETTING_TEXT], start[16];
    pr_err err = {0};
    const char *given = d->config ? d->config : getenv("PRECIS_CONFIG");
    pr_setting_flag flag = {.name = "config", .value = path};
    pr_settings_input in = {(const char *const *)environ, &flag, 1};
    bool any = given && given[0];
    if (any) snprintf(path, sizeof path, "%s", given);
    else if ((any = pr_os_text(system_file, start, sizeof start)))
        snprintf(path, sizeof path, "%s%s", d->root ? d->root : "", system_file);
    if (!any) in.n_flags = 0;
    if (pr_settings_load(&in, &d->settings, &err) != PR_OK) {
        pr_settings_defaults(&d->settings);
        pr__doctor_tell(d, PR_BAD, "settings", "precis.conf(5) has them all", "%s", err.text);
    } else {
        pr__doctor_tell(d, PR_GOOD, "settings", NULL, "%s", any ? path : "defaults, and the environment");
    }
}

static void look_at_keys(pr_doctor *d) {
    const char *path = d->settings.api_keys_file;
    pr_keys *keys = NULL;
    pr_err err = {0};
    struct stat st;
    if (!path[0]) return;
    if (pr_keys_load(path, &keys, &err) != PR_OK) {
        pr__doctor_tell(d, PR_BAD, "keys",
                        "a line each: NAME, and what `printf %s KEY | sha256sum` prints; readable by the server", "%s",
                        err.text);
        return;
    }
    size_t n = pr_keys_count(keys);
    pr_keys_close(keys);
    bool known = stat(path, &st) == 0;
    if (known && (st.st_mode & S_IWOTH))
        pr__doctor_tell(d, PR_BAD, "keys", "chmod o-rwx on it", "everybody may write %s, and give himself a key", path);
    else if (known && (st.st_mode & S_IROTH))
        pr__doctor_tell(d, PR_NOTE, "keys", "chmod 0640, group of the server",
                        "everybody may read %s (of keys it has hashes only)", path);
    else pr__doctor_tell(d, PR_GOOD, "keys", NULL, "%zu in %s", n, path);
}

static bool is_loopback(const struct sockaddr *at) {
    if (at->sa_family == AF_INET) return ntohl(((const struct sockaddr_in *)at)->sin_addr.s_addr) >> 24 == 127;
    return at->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)at)->sin6_addr);
}

/* Why the address cannot be had; 0 when it can. */
static int try_address(const struct addrinfo *at) {
    int yes = 1, why = 0;
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, at->ai_addr, at->ai_addrlen) != 0 || listen(fd, 1) != 0) why = errno;
    close(fd);
    return why;
}

static void tell_taken(pr_doctor *d) {
    char url[PR_SETTING_TEXT + 32];
    bool colon = strchr(d->settings.host, ':') != NULL;
    snprintf(url, sizeof url, "http://%s%s%s:%u", colon ? "[" : "", d->settings.host, colon ? "]" : "",
             d->settings.port);
    if (pr__client_health(url, ANSWER_SECONDS, NULL) == PR_OK)
        pr__doctor_tell(d, PR_GOOD, "address", NULL, "precis serves on %s", url);
    else
        pr__doctor_tell(d, PR_BAD, "address", "see `ss -ltnp`; end it, or choose another with PRECIS_PORT or --port",
                        "another program has port %u", d->settings.port);
}

static void look_at_address(pr_doctor *d) {
    const pr_settings *s = &d->settings;
    char port[16];
    struct addrinfo *all = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    snprintf(port, sizeof port, "%u", s->port);
    int rc = getaddrinfo(s->host, port, &hints, &all);
    if (rc) {
        pr__doctor_tell(d, PR_BAD, "address", "write an address of this machine, or 127.0.0.1", "%s: %s", s->host,
                        gai_strerror(rc));
        return;
    }
    int why = try_address(all);
    if (!is_loopback(all->ai_addr) && !s->api_keys_file[0])
        pr__doctor_tell(d, PR_BAD, "exposure",
                        "set PRECIS_API_KEYS_FILE, or PRECIS_HOST = 127.0.0.1 and a proxy before it",
                        "%s is open to other machines, without API keys: the server refuses to start", s->host);
    if (!why) pr__doctor_tell(d, PR_GOOD, "address", NULL, "%s port %u is free", s->host, s->port);
    else if (why == EADDRINUSE) tell_taken(d);
    else if (why == EACCES)
        pr__doctor_tell(d, PR_BAD, "address", "choose one above 1023, and a proxy before it", "port %u: %s", s->port,
                        strerror(why));
    else
        pr__doctor_tell(d, PR_BAD, "address", "write an address of this machine, or 127.0.0.1", "%s: %s", s->host,
                        strerror(why));
    freeaddrinfo(all);
}

static void look_at_servers(pr_doctor *d) {
    pr_running servers[SERVERS_MAX];
    size_t n = pr__runfile_list(servers, SERVERS_MAX);
    for (size_t i = 0; i < n; i++) {
        char what[32];
        json_t *health = NULL;
        pr_err err = {0};
        snprintf(what, sizeof what, "server %u", servers[i].port);
        pr_status st = pr__client_get(servers[i].url, "/health", NULL, ANSWER_SECONDS, &health, &err);
        const char *version = json_string_value(json_object_get(health, "version"));
        if (st)
            pr__doctor_tell(d, PR_BAD, what, "see its log; precis stop, then start it again",
                            "process %ld does not answer: %s", servers[i].pid, err.text);
        else if (!version || strcmp(version, PRECIS_VERSION) != 0)
            pr__doctor_tell(d, PR_NOTE, what, "start it again", "it runs version %s; this is " PRECIS_VERSION,
                            version ? version : "?");
        else pr__doctor_tell(d, PR_GOOD, what, NULL, "runs, process %ld", servers[i].pid);
        json_decref(health);
    }
}

void pr__doctor_setup(pr_doctor *d) {
    look_at_settings(d);
    look_at_keys(d);
    look_at_address(d);
    look_at_servers(d);
}

# Installing, and taking away again: one list for both.
#
#   make install PREFIX=/usr DESTDIR=/tmp/root
#
# A file is MODE:SOURCE:PLACE. The configuration file is apart: one that is there is never overwritten, and one that was
# changed is never removed.

SYSCONFDIR  ?= /etc
UNITDIR     ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
# Debian's zsh looks into vendor-completions below /usr, every zsh into site-functions below /usr/local.
ZSHDIR      ?= $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
DOCDIR      := $(PREFIX)/share/doc/precis
CONFIG      := $(DESTDIR)$(SYSCONFDIR)/precis/precis.conf
STAGE       := $(B)/install

INSTALL_PROGRAM := \
    644:$(STAGE)/precis.service:$(UNITDIR)/precis.service \
    644:packaging/sysusers.conf:$(SYSUSERSDIR)/precis.conf \
    644:packaging/tmpfiles.conf:$(TMPFILESDIR)/precis.conf \
    644:$(STAGE)/precis.bash:$(PREFIX)/share/bash-completion/completions/precis \
    644:$(STAGE)/precis.zsh:$(ZSHDIR)/_precis \
    644:$(STAGE)/precis.fish:$(PREFIX)/share/fish/vendor_completions.d/precis.fish \
    644:docs/precis.1:$(PREFIX)/share/man/man1/precis.1 \
    644:docs/precis.conf.5:$(PREFIX)/share/man/man5/precis.conf.5 \
    644:LICENSE:$(DOCDIR)/LICENSE \
    644:README.md:$(DOCDIR)/README.md \
    755:validate:$(PREFIX)/share/precis/validate \
    644:share/grafana/precis.json:$(PREFIX)/share/precis/grafana/precis.json \
    644:share/prometheus/precis.rules.yml:$(PREFIX)/share/precis/prometheus/precis.rules.yml \
    $(foreach d,$(wildcard docs/API.md docs/GOVERNOR.md docs/METRICS.md docs/ELASTIC.md docs/OPERATIONS.md),644:$d:$(DOCDIR)/$d)

INSTALL_LIBRARY := \
    644:$(LIBRARY):$(PREFIX)/lib/libprecis.a \
    644:$(STAGE)/precis.pc:$(PREFIX)/lib/pkgconfig/precis.pc \
    644:include/precis.h:$(PREFIX)/include/precis.h

.PHONY: install install-program install-library uninstall deb

install: install-program install-library

# Their places are written into them, so they are made anew each time.
.PHONY: $(STAGE)/precis.service $(STAGE)/precis.pc
$(STAGE)/precis.service: packaging/precis.service.in
	@mkdir -p $(@D)
	@sed -e 's|@BINDIR@|$(PREFIX)/bin|g' -e 's|@SYSCONFDIR@|$(SYSCONFDIR)|g' $< > $@

COMPLETIONS := $(addprefix $(STAGE)/precis.,bash zsh fish)
$(COMPLETIONS): $(STAGE)/precis.%: $(PROGRAM)
	@mkdir -p $(@D)
	@$(PROGRAM) completion $* > $@

$(STAGE)/precis.pc:
	@mkdir -p $(@D)
	@printf '%s\n' 'Name: precis' 'Description: language models on the machine at hand' 'Version: $(VERSION)' \
	    'Requires: $(LIBS)' 'Cflags: -I$(PREFIX)/include' 'Libs: -L$(PREFIX)/lib -lprecis -pthread -lm' > $@

# $1: files
define put
@set -e; for item in $1; do \
    mode=$${item%%:*}; from=$${item#*:}; to=$(DESTDIR)$${from#*:}; from=$${from%%:*}; \
    install -D -m $$mode $$from $$to; \
done
endef

install-program: $(PROGRAM) $(COMPLETIONS) $(STAGE)/precis.service
	$(call put,$(INSTALL_PROGRAM))
	install -D -s -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/precis
	@if [ -e $(CONFIG) ]; then echo "$(CONFIG) is left as it is"; else install -D -m 644 packaging/precis.conf $(CONFIG); fi

install-library: $(LIBRARY) $(STAGE)/precis.pc
	$(call put,$(INSTALL_LIBRARY))

deb: all
	@packaging/deb/build $(VERSION)

uninstall:
	@for item in $(INSTALL_PROGRAM) $(INSTALL_LIBRARY); do rm -f $(DESTDIR)$${item##*:}; done
	rm -f $(DESTDIR)$(PREFIX)/bin/precis
	@if [ ! -e $(CONFIG) ]; then :; \
	elif cmp -s packaging/precis.conf $(CONFIG); then rm -f $(CONFIG); \
	else echo "$(CONFIG) was changed, and stays"; fi
	@for folder in $(DOCDIR)/docs $(DOCDIR) $(PREFIX)/share/precis/grafana $(PREFIX)/share/precis/prometheus \
	    $(PREFIX)/share/precis $(SYSCONFDIR)/precis; do \
	    [ ! -d $(DESTDIR)$$folder ] || rmdir --ignore-fail-on-non-empty $(DESTDIR)$$folder; \
	done

# precis: GNU make.  `make help` lists what there is.
#
# Sources are found, not listed: a file in src/<folder>/ (or one level below)
# belongs to the library, except src/cmd/, which is the program. Every MODE has
# a folder of its own under build/, so switching modes rebuilds nothing.

MODE   ?= release
PREFIX ?= /usr/local
WERROR ?= 0
VERSION = $(shell sed -n 's/^.define PRECIS_VERSION "\(.*\)"/\1/p' include/precis.h)

MODES := release debug asan tsan fuzz
ifeq ($(filter $(MODE),$(MODES)),)
$(error MODE=$(MODE) is not one of: $(MODES))
endif

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(MODE),fuzz)
CC := clang
endif
AR ?= ar
PKG_CONFIG ?= pkg-config

# build/asan, or build/asan-clang beside it when another compiler is asked for.
CC_SUFFIX := $(if $(filter gcc cc,$(notdir $(CC)))$(filter fuzz,$(MODE)),,-$(notdir $(CC)))
B := build/$(MODE)$(CC_SUFFIX)

# ---- flags ----

LIBS      := jansson libcurl libcrypto libpcre2-8 libutf8proc hwloc inih zlib libdeflate libmicrohttpd
LIBS_CMD  := libedit
LIBS_TEST := cmocka

WARN := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes
ifeq ($(WERROR),1)
WARN += -Werror
endif

MODE_release := -O3 -g -DNDEBUG
MODE_debug   := -O0 -g
MODE_asan    := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
MODE_tsan    := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
MODE_fuzz    := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all

# No fused multiply-add that the source did not ask for: the numbers must not
# depend on the compiler's choice.
PR_CFLAGS   = -std=c11 -D_GNU_SOURCE -Isrc -Iinclude -pthread -ffp-contract=off $(MODE_$(MODE)) $(WARN) \
              $(shell $(PKG_CONFIG) --cflags $(LIBS) $(LIBS_CMD))
PR_LDFLAGS  = -pthread $(filter -fsanitize% -fno-sanitize%,$(MODE_$(MODE)))
PR_LDLIBS   = $(shell $(PKG_CONFIG) --libs $(LIBS)) -lm
PR_CFLAGS  := $(PR_CFLAGS)
PR_LDLIBS  := $(PR_LDLIBS)
TEST_FLAGS := $(shell $(PKG_CONFIG) --cflags $(LIBS_TEST) 2>/dev/null)
TEST_LIBS  := $(shell $(PKG_CONFIG) --libs $(LIBS_TEST) 2>/dev/null)
CMD_LIBS   := $(shell $(PKG_CONFIG) --libs $(LIBS_CMD))

TARGET := $(shell $(CC) -dumpmachine)
ifneq ($(filter x86_64%,$(TARGET)),)
PR_CFLAGS += -DPR_HAVE_X86=1
FLAGS_avx2   := -mavx2 -mfma -mf16c
FLAGS_avxvnni := -mavxvnni $(FLAGS_avx2)
FLAGS_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni $(FLAGS_avx2)
SKIP_ISA :=
ifneq ($(filter %-gnu,$(TARGET)),)
PR_CFLAGS += -DPR_HAVE_IFUNC=1
endif
else
SKIP_ISA := src/kernels/avx2/% src/kernels/avxvnni/% src/kernels/avx512/%
endif

# ---- files ----

SRC      := $(filter-out $(SKIP_ISA),$(wildcard src/*/*.c src/*/*/*.c))
CMD_SRC  := $(filter src/cmd/%,$(SRC))
LIB_SRC  := $(filter-out src/cmd/%,$(SRC))
SUP_SRC  := $(wildcard test/support/*.c)
UNIT_SRC := $(wildcard test/unit/*/test_*.c)
CHK_SRC  := $(filter-out $(SKIP_ISA:src/kernels/%=test/checkasm/%),$(wildcard test/checkasm/*.c))
BEN_SRC  := $(wildcard bench/*.c)
FUZ_SRC  := $(wildcard fuzz/fuzz_*.c)

obj = $(1:%.c=$(B)/obj/%.o)

# Texts that go into the library as arrays: NAME_text.c has pr__NAME_text, as SOURCE_text.h declares it.
GEN_NAMES := calibration openapi
TEXT_calibration := src/compress/calibration.txt
TEXT_openapi     := src/api/openapi.json
GEN_OBJ   := $(GEN_NAMES:%=$(B)/obj/gen/%_text.o) $(B)/obj/gen/web_files.o
WEB       := $(sort $(wildcard web/*.html web/*.css web/*.js web/*.svg))

PROGRAM   := $(if $(CMD_SRC),$(B)/precis)
LIBRARY   := $(B)/libprecis.a
SUPPORT   := $(if $(SUP_SRC),$(B)/libsupport.a)
# test/unit/base/test_mem.c -> build/release/test/base_test_mem
UNITS     := $(foreach f,$(UNIT_SRC),$(B)/test/$(notdir $(patsubst %/,%,$(dir $f)))_$(basename $(notdir $f)))
CHECKASM  := $(if $(CHK_SRC),$(B)/checkasm)
BENCHES   := $(BEN_SRC:bench/%.c=$(B)/bench/%)
FUZZERS   := $(FUZ_SRC:fuzz/%.c=$(B)/fuzz/%)

# ---- targets ----

.PHONY: all programs tests test bench fuzz tidy format clean help
.DELETE_ON_ERROR:
.SECONDARY:

all: $(LIBRARY) $(PROGRAM)

tests: $(UNITS) $(CHECKASM)

test: tests
	tools/run-tests --build $(B) unit checkasm

bench: all $(BENCHES)

fuzz:
ifeq ($(MODE),fuzz)
fuzz: $(FUZZERS)
else
	$(MAKE) MODE=fuzz fuzz
endif

tidy:
	tools/tidy

format:
	clang-format -i $$(git ls-files '*.c' '*.h' '*.inc')

clean:
	rm -rf build

help:
	@echo 'make [MODE=release|debug|asan|tsan|fuzz] [CC=gcc|clang] [WERROR=1] TARGET'
	@echo '  all      the library and the program, under build/MODE/ (the default)'
	@echo '  tests    build the unit tests and checkasm'
	@echo '  test     build and run them'
	@echo '  bench    build the benchmarks'
	@echo '  fuzz     build the fuzz targets (clang)'
	@echo '  tidy     check the rules of the house, clang-format, clang-tidy'
	@echo '  format   run clang-format over every C file'
	@echo '  install  program, unit, settings, manual, library (PREFIX=$(PREFIX), DESTDIR; install-program, install-library)'
	@echo '  uninstall  what install put there'
	@echo '  deb      a Debian package, build/deb/precis_*.deb'
	@echo '  clean    remove build/'

include packaging/install.mk

# ---- rules ----

# One rule a text.
define text_rule
$(B)/gen/$1_text.c: $2 Makefile
	@mkdir -p $$(@D)
	@{ echo '#include "$(patsubst src/%,%,$(dir $2))$1_text.h"'; echo 'const unsigned char pr__$1_text[] = {'; \
	   od -An -v -tu1 $$< | sed 's/\([0-9][0-9]*\)/\1,/g'; echo '};'; \
	   echo 'const size_t pr__$1_text_len = sizeof pr__$1_text;'; } > $$@
endef
$(foreach n,$(GEN_NAMES),$(eval $(call text_rule,$n,$(TEXT_$n))))

# The page: all of its files in one table.
$(B)/gen/web_files.c: $(WEB) tools/embed-web Makefile
	@mkdir -p $(@D)
	@tools/embed-web $(WEB) > $@

$(GEN_OBJ): $(B)/obj/gen/%.o: $(B)/gen/%.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(PR_CFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(LIBRARY): $(call obj,$(LIB_SRC)) $(GEN_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(B)/libsupport.a: $(call obj,$(SUP_SRC))
	@rm -f $@
	$(AR) rcs $@ $^

$(B)/precis: $(call obj,$(CMD_SRC)) $(LIBRARY)
	$(CC) $(PR_LDFLAGS) $(LDFLAGS) -o $@ $^ $(PR_LDLIBS) $(CMD_LIBS)

$(B)/checkasm: $(call obj,$(CHK_SRC)) $(LIBRARY)
	$(CC) $(PR_LDFLAGS) $(LDFLAGS) -o $@ $^ $(PR_LDLIBS)

$(BENCHES): $(B)/bench/%: $(B)/obj/bench/%.o $(LIBRARY)
	@mkdir -p $(@D)
	$(CC) $(PR_LDFLAGS) $(LDFLAGS) -o $@ $^ $(PR_LDLIBS)

$(FUZZERS): $(B)/fuzz/%: $(B)/obj/fuzz/%.o $(LIBRARY)
	@mkdir -p $(@D)
	$(CC) $(PR_LDFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(PR_LDLIBS)

# One rule a unit test: its name carries the folder.
define unit_rule
$(B)/test/$(notdir $(patsubst %/,%,$(dir $1)))_$(basename $(notdir $1)): $(call obj,$1) $(SUPPORT) $(LIBRARY)
	@mkdir -p $$(@D)
	$$(CC) $$(PR_LDFLAGS) $$(LDFLAGS) -o $$@ $$^ $$(PR_LDLIBS) $$(TEST_LIBS)
endef
$(foreach f,$(UNIT_SRC),$(eval $(call unit_rule,$f)))

$(B)/obj/test/%.o: EXTRA = $(TEST_FLAGS) -Itest
$(B)/obj/fuzz/%.o: EXTRA = -Wno-missing-prototypes
$(B)/obj/src/kernels/avx2/%.o: EXTRA = $(FLAGS_avx2)
$(B)/obj/src/kernels/avxvnni/%.o: EXTRA = $(FLAGS_avxvnni)
$(B)/obj/src/kernels/avx512/%.o: EXTRA = $(FLAGS_avx512)
# Its loops are SIMD only if a comparison may be made that the source makes under a condition: no number changes.
$(B)/obj/src/store/encode_rows.o: EXTRA = -fno-trapping-math

$(B)/obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(PR_CFLAGS) $(CFLAGS) $(EXTRA) -MMD -MP -c -o $@ $<

# Objects are rebuilt when the flags change; the warnings' severity is no change.
FLAGS_TEXT := $(CC) $(filter-out -Werror,$(PR_CFLAGS)) $(CFLAGS)
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(FLAGS_TEXT)' | cmp -s - $@ || printf '%s\n' '$(FLAGS_TEXT)' > $@
.PHONY: FORCE

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

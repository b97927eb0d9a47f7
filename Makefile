# deltad: one file builds, checks and installs everything. `make help` lists the targets.

VERSION := 0.1.0
SOVERSION := 0

prefix ?= /usr/local
bindir ?= $(prefix)/bin
sbindir ?= $(prefix)/sbin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
mandir ?= $(prefix)/share/man
sysconfdir ?= /etc
unitdir ?= /lib/systemd/system
sysusersdir ?= /usr/lib/sysusers.d
tmpfilesdir ?= /usr/lib/tmpfiles.d

CC ?= gcc
BUILD ?= build
OPTIMISE ?= -O2 -g
SANITIZE ?=
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual \
	-Wpointer-arith -Wwrite-strings -Wvla -Wundef
CPPFLAGS := -D_GNU_SOURCE -I. -DDELTAD_VERSION='"$(VERSION)"' -MMD -MP
CFLAGS := -std=gnu11 -fPIC -fvisibility=hidden -fstack-protector-strong -ffp-contract=off \
	$(OPTIMISE) $(WARNINGS) $(SANITIZE)
LDFLAGS := -pthread -Wl,-z,relro,-z,now $(SANITIZE)

ARCH := $(shell uname -m)
KERNEL_SETS := ref $(if $(filter x86_64,$(ARCH)),avx2 avx512)

# Folders, lowest first. A library folder is its *.c; nothing is listed twice.
sources = $(wildcard $(addsuffix /*.c,$(1)))
objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

COMMON := $(call sources,common)
KERNELS := $(call sources,kernels $(addprefix kernels/,$(KERNEL_SETS)))
STORE := $(call sources,store)
ENGINE := $(call sources,engine)
FOREIGN := $(call sources,foreign)
COMPRESS := $(call sources,compress)
CLIENT := $(call sources,client)
DELTACTL := $(call sources,client/deltactl)
DAEMON_LIBRARY := $(filter-out daemon/main.c,$(call sources,daemon))

ALL_LIBRARY := $(COMMON) $(KERNELS) $(STORE) $(ENGINE) $(CLIENT) $(FOREIGN) $(COMPRESS)

SERVE_LIBS := -lcrypto -luring -lpcre2-8 -lutf8proc -lm -ldl
TOOL_LIBS := $(SERVE_LIBS) -ljansson -lseccomp
DAEMON_LIBS := $(SERVE_LIBS) -lsystemd -lyaml

PROGRAMS := $(BUILD)/bin/deltactl $(BUILD)/bin/deltad
LIBRARIES := $(BUILD)/lib/libdeltad.so.$(SOVERSION) $(BUILD)/lib/libdeltad.so $(BUILD)/lib/libdeltad.a

.PHONY: all
all: $(PROGRAMS) $(LIBRARIES)


$(BUILD)/obj/kernels/avx2/%.o: CFLAGS += -mavx2 -mfma -mf16c
$(BUILD)/obj/kernels/avx512/%.o: CFLAGS += -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni \
	-mavx512bf16 -mavx2 -mfma -mf16c

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

# Everything but the mains, for the linker to choose from.
$(BUILD)/obj/all.a: $(call objects,$(ALL_LIBRARY) $(DAEMON_LIBRARY))
	@mkdir -p $(@D)
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/bin/deltactl: $(call objects,$(DELTACTL)) $(BUILD)/obj/all.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ $(TOOL_LIBS) -o $@

$(BUILD)/bin/deltad: $(call objects,daemon/main.c) $(BUILD)/obj/all.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ $(DAEMON_LIBS) -o $@

# The client library needs nothing of ours but common/ and its own folder.
$(BUILD)/lib/libdeltad.so.$(SOVERSION): $(call objects,$(COMMON) $(CLIENT)) client/libdeltad.sym
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -Wl,-soname,$(@F) -Wl,--version-script=client/libdeltad.sym \
		-Wl,--no-undefined $(filter %.o,$^) -lcrypto -o $@

$(BUILD)/lib/libdeltad.so: $(BUILD)/lib/libdeltad.so.$(SOVERSION)
	ln -sf $(<F) $@

$(BUILD)/lib/libdeltad.a: $(call objects,$(COMMON) $(CLIENT))
	@mkdir -p $(@D)
	rm -f $@
	$(AR) rcs $@ $^

# Unit tests: every tests/*/test_NAME.c is a cmocka program linked with all libraries.
TEST_SOURCES := $(wildcard tests/unit/test_*.c tests/kernels/test_*.c tests/golden/test_*.c \
	tests/format/test_*.c tests/faults/test_*.c)
TEST_SUPPORT := $(call sources,tests)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(TEST_SOURCES))

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call objects,$(TEST_SUPPORT)) $(BUILD)/obj/all.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ $(TOOL_LIBS) -lsystemd -lyaml -lcmocka -o $@

.PHONY: objects
objects: $(BUILD)/obj/all.a $(call objects,$(DELTACTL))

.PHONY: tests
tests: $(TESTS)

.PHONY: clean
clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

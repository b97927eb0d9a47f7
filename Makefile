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

# make's own default is cc.
ifeq ($(origin CC),default)
CC := gcc
endif
BUILD ?= build
OPTIMISE ?= -O2 -g
SANITIZE ?=
# Of the vector kernels, whose unrolled loops take clang minutes when they are instrumented.
SANITIZE_VECTORS ?= $(SANITIZE)
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual \
	-Wpointer-arith -Wwrite-strings -Wvla -Wundef
CPPFLAGS := -D_GNU_SOURCE -I. -DDELTAD_VERSION='"$(VERSION)"' -MMD -MP
CFLAGS := -std=gnu11 -fPIC -fvisibility=hidden -fstack-protector-strong -ffp-contract=off \
	$(OPTIMISE) $(WARNINGS)
INSTRUMENT = $(SANITIZE)
LDFLAGS := -pthread -Wl,-z,relro,-z,now $(SANITIZE)

ARCH := $(shell uname -m)
KERNEL_SETS := ref $(if $(filter x86_64,$(ARCH)),avx2 avx512 amx)

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

# Asked before the first file is compiled, so that a missing package is named and not a missing header.
$(BUILD)/packages: scripts/packages.txt
	@scripts/install_packages.sh --ask $< build
	@mkdir -p $(@D) && touch $@

$(BUILD)/obj/kernels/avx2/%.o: CFLAGS += -mavx2 -mfma -mf16c
AVX512_FLAGS := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16 -mavx2 -mfma -mf16c
$(BUILD)/obj/kernels/avx512/%.o: CFLAGS += $(AVX512_FLAGS)
$(BUILD)/obj/kernels/amx/%.o: CFLAGS += $(AVX512_FLAGS) -mamx-tile -mamx-int8 -mamx-bf16
$(BUILD)/obj/kernels/avx512/%.o $(BUILD)/obj/kernels/amx/%.o: INSTRUMENT = $(SANITIZE_VECTORS)
# Else gcc gives each sum that a loop carries two registers, and copies it every time.
$(addprefix $(BUILD)/obj/kernels/avx512/,matmul_int.o qmat_sum_int.o): CFLAGS += \
	$(if $(findstring clang,$(CC)),,-fno-tree-coalesce-vars)

# Loops over short rows are most of their work, and -O2 leaves them to scalars.
$(addprefix $(BUILD)/obj/,compress/ldlq.o compress/exponential.o foreign/integers.o \
	foreign/safetensors_numbers.o): CFLAGS += -O3
# Nobody asks which operations were inexact; comparisons then stay in vectors. No result changes.
$(BUILD)/obj/foreign/integers.o: CFLAGS += -fno-trapping-math

$(BUILD)/obj/%.o: %.c | $(BUILD)/packages
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(INSTRUMENT) -c $< -o $@

# The default calibration text is taken in by the assembler, which tells nobody.
$(BUILD)/obj/client/deltactl/default_calibration.o: models/calibration.txt

# Everything but the mains, for the linker to choose from.
$(BUILD)/obj/all.a: $(call objects,$(ALL_LIBRARY) $(DAEMON_LIBRARY))
	@mkdir -p $(@D)
	rm -f $@
	$(AR) rcs $@ $^

# Likewise of deltactl, for its tests.
$(BUILD)/obj/deltactl.a: $(call objects,$(filter-out client/deltactl/deltactl.c,$(DELTACTL)))
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

comma := ,

# Unit tests: every tests/*/test_NAME.c is a cmocka program; the linker takes what it needs.
TEST_SOURCES := $(wildcard tests/unit/test_*.c tests/kernels/test_*.c tests/golden/test_*.c \
	tests/format/test_*.c tests/faults/test_*.c tests/e2e/test_*.c)
TEST_SUPPORT := $(call sources,tests)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(TEST_SOURCES))
SCRIPTED_TESTS := $(wildcard tests/*/test_*.sh)
# They start daemons, wait for seconds or take all memory that they are given.
TESTS_ALONE = $(filter $(BUILD)/tests/e2e/% $(BUILD)/tests/faults/%,$(TESTS))

# The kernel sets that not every CPU has are compiled once more, for tests on any with AVX2:
# <immintrin.h> is then that of tests/emulated. Kernels do not get their way with inlining, and
# nothing is unrolled, because with intrinsics in software compilers would take minutes over it. SIMDe
# adds lanes as signed numbers, whose sums wrap.
EMULATED_KERNELS := $(filter kernels/avx512/% kernels/amx/%,$(KERNELS))
EMULATED_FLAGS := -mavx2 -mfma -mf16c -Og -Dalways_inline=unused -Wno-psabi \
	-fno-sanitize=signed-integer-overflow

$(BUILD)/obj/emulated/%.o: %.c | $(BUILD)/packages
	@mkdir -p $(@D)
	$(CC) -Itests/emulated $(CPPFLAGS) $(CFLAGS) $(INSTRUMENT) $(EMULATED_FLAGS) -c $< -o $@

ifdef EMULATED_KERNELS
$(BUILD)/obj/tests/kernels/test_emulated.o: CPPFLAGS := -Itests/emulated $(CPPFLAGS)
$(BUILD)/obj/tests/kernels/test_emulated.o: INSTRUMENT = $(SANITIZE) $(EMULATED_FLAGS)
endif

# They go into one program with the other ones, so all their names but two are hidden, and these changed.
$(BUILD)/obj/emulated_kernels.o: $(patsubst %.c,$(BUILD)/obj/emulated/%.o,$(EMULATED_KERNELS))
	$(LD) -r $^ -o $(@:.o=_joined.o)
	objcopy $(foreach set,avx512 amx,--redefine-sym kernels_$(set)=emulated_$(set) \
		--keep-global-symbol=emulated_$(set)) $(@:.o=_joined.o) $@

$(BUILD)/obj/emulated.a: $(call objects,$(call sources,tests/emulated)) \
		$(if $(EMULATED_KERNELS),$(BUILD)/obj/emulated_kernels.o)
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call objects,$(TEST_SUPPORT)) $(BUILD)/obj/deltactl.a \
		$(BUILD)/obj/emulated.a $(BUILD)/obj/all.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ $(TOOL_LIBS) -lsystemd -lyaml -lcmocka -o $@

# This one makes allocations fail.
$(BUILD)/tests/faults/test_memory: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,malloc calloc realloc \
	reallocarray aligned_alloc strdup strndup free pthread_create)

# Fuzz drivers: linked with replay.c they run their corpus as a test; `make fuzz` links libFuzzer.
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
REPLAYS := $(addprefix $(BUILD)/replay/,$(FUZZERS))

$(BUILD)/replay/%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/obj/tests/fuzz/replay.o $(BUILD)/obj/all.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ $(TOOL_LIBS) -lyaml -lsystemd -o $@

$(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/obj/all.a
	@mkdir -p $(@D)
	$(CC) -fsanitize=fuzzer $(LDFLAGS) $^ $(TOOL_LIBS) -lyaml -lsystemd -o $@

BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))

$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(BUILD)/obj/all.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ $(TOOL_LIBS) -lyaml -lsystemd -o $@

.PHONY: objects
objects: $(BUILD)/obj/all.a $(call objects,$(DELTACTL))

.PHONY: tests
tests: $(TESTS) $(REPLAYS)

.PHONY: help
help:
	@echo 'make             build into $(BUILD)/bin and $(BUILD)/lib'
	@echo 'make deps        install the Debian packages that building needs (deps-check: and testing; deps-bench: measuring)'
	@echo 'make demo        install what is missing, build, and show the whole way once'
	@echo 'make check       install what is missing, build, run every test'
	@echo 'make asan        the tests under AddressSanitizer (ubsan, tsan: likewise)'
	@echo 'make arm64       compile for arm64, and test under emulation what depends on the processor'
	@echo 'make fuzz        fuzz every parser; FUZZ_SECONDS=60 each'
	@echo 'make soak        a long run of many clients against one daemon; SOAK_SECONDS=300'
	@echo 'make boot        boot systemd in a container and let a client start the service (root)'
	@echo 'make bench       measure what the machine allows, kernels and loading'
	@echo 'make bench-quality   every compression method at every size: bench/results/quality.md'
	@echo 'make bench-rates     prompts and decoding in the shapes of 1.1B and 7B: bench/results/rates.md'
	@echo 'make bench-roofline  each kernel under what the machine allows, as a picture: bench/results/roofline.svg'
	@echo 'make install     under prefix=$(prefix), DESTDIR honoured (uninstall takes it back)'
	@echo 'make format      clang-format over the tree'

.PHONY: deps deps-check deps-bench
deps:
	@scripts/install_packages.sh scripts/packages.txt build
deps-check:
	@scripts/install_packages.sh scripts/packages.txt build check
deps-bench:
	@scripts/install_packages.sh scripts/packages.txt build bench

# Installing comes first, then make starts afresh and finds what is there now.
JOBS := -j$(shell nproc)

.PHONY: demo
demo: deps
	@echo 'building into $(BUILD)/, takes a minute on two cores the first time'
	@$(MAKE) --no-print-directory -s $(JOBS) all
	@scripts/demo.sh $(BUILD)

.PHONY: check
check: deps-check
	@scripts/check_includes.sh
	@scripts/check_style.sh
	@echo 'building into $(BUILD)/ with gcc and with clang; building and testing take some twelve minutes on two cores'
	@$(MAKE) --no-print-directory -s $(JOBS) all tests
	@$(MAKE) --no-print-directory -s $(JOBS) CC=clang BUILD=$(BUILD)/clang objects
	@echo 'warnings: none from gcc, none from clang'
	@$(MAKE) --no-print-directory -s run-tests

.PHONY: run-tests
run-tests: all tests
	@DELTAD_BUILD=$(BUILD) DELTAD_SANITIZE='$(SANITIZE)' tests/run.sh --jobs $(shell nproc) \
		$(filter-out $(TESTS_ALONE),$(TESTS)) $(REPLAYS) --alone $(TESTS_ALONE) $(SCRIPTED_TESTS)

SANITIZED = TEST_TIMEOUT=900 $(MAKE) --no-print-directory -s $(JOBS) OPTIMISE='-O1 -g -fno-omit-frame-pointer' \
	BUILD=$(BUILD)/$@

.PHONY: asan ubsan tsan
asan: deps-check
	@$(SANITIZED) SANITIZE=-fsanitize=address all tests
	@$(SANITIZED) SANITIZE=-fsanitize=address run-tests
ubsan: deps-check
	@$(SANITIZED) SANITIZE='-fsanitize=undefined -fno-sanitize-recover=all' all tests
	@$(SANITIZED) SANITIZE='-fsanitize=undefined -fno-sanitize-recover=all' run-tests
tsan: deps-check
	@$(SANITIZED) SANITIZE=-fsanitize=thread all tests
	@TSAN_OPTIONS="halt_on_error=1 suppressions=$(CURDIR)/tests/tsan.supp" $(SANITIZED) SANITIZE=-fsanitize=thread run-tests

# Everything, compiled for arm64 where only ref/ is there, and the tests of what differs from one
# processor to the next, under emulation.
ARM64_ROOT := $(BUILD)/arm64-root
ARM64_BUILD := $(BUILD)/arm64
ARM64_TESTS := $(patsubst tests/%.c,$(ARM64_BUILD)/tests/%,$(wildcard tests/kernels/test_*.c) \
	$(patsubst %,tests/unit/test_%.c,blas code_stream exponential image import kv ldlq linear selftest shm svd))
.PHONY: arm64
arm64:
	@scripts/install_packages.sh scripts/packages.txt build check arm64
	@scripts/arm64_root.sh scripts/packages.txt $(ARM64_ROOT)
	@$(MAKE) --no-print-directory -s $(JOBS) ARCH=aarch64 BUILD=$(ARM64_BUILD) \
		CC='aarch64-linux-gnu-gcc --sysroot=$(abspath $(ARM64_ROOT))' all $(ARM64_TESTS)
	@for t in $(ARM64_TESTS); do echo "$${t##*/}"; \
		qemu-aarch64-static -L $(abspath $(ARM64_ROOT)) \
			-E LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu/openblas-pthread $$t >$(ARM64_BUILD)/log 2>&1 || \
			{ cat $(ARM64_BUILD)/log; exit 1; }; done
	@echo 'arm64: compiled and tested with the set ref'

FUZZ_SECONDS ?= 60
FUZZ_BUILD := $(BUILD)/fuzzing
.PHONY: fuzz fuzz-run
fuzz: deps-check
	@$(MAKE) --no-print-directory -s $(JOBS) CC=clang BUILD=$(FUZZ_BUILD) OPTIMISE='-O1 -g' \
		SANITIZE='-fsanitize=fuzzer-no-link,address,undefined' SANITIZE_VECTORS= \
		$(addprefix $(FUZZ_BUILD)/fuzz/,$(FUZZERS))
	@scripts/fuzz.sh $(FUZZ_BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZERS)

SOAK_SECONDS ?= 300
.PHONY: soak
soak: deps-check
	@$(MAKE) --no-print-directory -s $(JOBS) all
	@scripts/soak.sh $(BUILD) $(SOAK_SECONDS)

.PHONY: boot
boot: deps
	@scripts/install_packages.sh scripts/packages.txt boot
	@$(MAKE) --no-print-directory -s $(JOBS) all
	@DELTAD_BUILD=$(BUILD) tests/boot/run.sh $(BUILD)/boot-root

.PHONY: bench
bench: deps-bench
	@$(MAKE) --no-print-directory -s $(JOBS) all $(BENCHES)
	@scripts/bench.sh $(BUILD)

# Every compression method at every size on the fine-tunes in ../shared/models; hours on two cores.
.PHONY: bench-quality
bench-quality: deps-bench
	@$(MAKE) --no-print-directory -s $(JOBS) all
	@bench/quality.sh --build $(BUILD)

# Random models of the shapes of 1.1B and 7B; tens of gigabytes in $(BUILD)/rates, hours on two cores.
.PHONY: bench-rates
bench-rates: deps-bench
	@$(MAKE) --no-print-directory -s $(JOBS) all $(BENCHES)
	@bench/rates.sh --build $(BUILD) --work $(BUILD)/rates

# A minute, best on a quiet machine.
.PHONY: bench-roofline
bench-roofline: deps-bench
	@$(MAKE) --no-print-directory -s $(JOBS) $(BENCHES)
	@bench/roofline.sh --build $(BUILD)

.PHONY: format
format:
	@scripts/install_packages.sh scripts/packages.txt format
	@git ls-files '*.c' '*.h' | xargs clang-format -i

MANUALS := $(wildcard man/*.[1-8])
fill = sed -e 's|@sbindir@|$(sbindir)|g' -e 's|@bindir@|$(bindir)|g' -e 's|@sysconfdir@|$(sysconfdir)|g' \
	-e 's|@prefix@|$(prefix)|g' -e 's|@libdir@|$(libdir)|g' -e 's|@includedir@|$(includedir)|g' \
	-e 's|@version@|$(VERSION)|g'

.PHONY: install
install: all
	install -D -m 755 $(BUILD)/bin/deltad $(DESTDIR)$(sbindir)/deltad
	install -D -m 755 $(BUILD)/bin/deltactl $(DESTDIR)$(bindir)/deltactl
	install -D -m 755 $(BUILD)/lib/libdeltad.so.$(SOVERSION) $(DESTDIR)$(libdir)/libdeltad.so.$(SOVERSION)
	ln -sf libdeltad.so.$(SOVERSION) $(DESTDIR)$(libdir)/libdeltad.so
	install -D -m 644 $(BUILD)/lib/libdeltad.a $(DESTDIR)$(libdir)/libdeltad.a
	install -D -m 644 client/deltad.h $(DESTDIR)$(includedir)/deltad.h
	install -d $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir) $(DESTDIR)$(tmpfilesdir)
	$(fill) client/libdeltad.pc.in >$(DESTDIR)$(libdir)/pkgconfig/deltad.pc
	for u in systemd/*.service systemd/*.socket; do $(fill) $$u >$(DESTDIR)$(unitdir)/$${u##*/} || exit 1; done
	install -m 644 systemd/sysusers.d/deltad.conf $(DESTDIR)$(sysusersdir)/deltad.conf
	install -m 644 systemd/tmpfiles.d/deltad.conf $(DESTDIR)$(tmpfilesdir)/deltad.conf
	[ -e $(DESTDIR)$(sysconfdir)/deltad/deltad.yaml ] || \
		install -D -m 644 etc/deltad.yaml $(DESTDIR)$(sysconfdir)/deltad/deltad.yaml
	for m in $(MANUALS); do install -D -m 644 $$m $(DESTDIR)$(mandir)/man$${m##*.}/$${m##*/} || exit 1; done

# A configuration that was changed stays.
.PHONY: uninstall
uninstall:
	rm -f $(DESTDIR)$(sbindir)/deltad $(DESTDIR)$(bindir)/deltactl $(DESTDIR)$(libdir)/libdeltad.so* \
		$(DESTDIR)$(libdir)/libdeltad.a $(DESTDIR)$(includedir)/deltad.h \
		$(DESTDIR)$(libdir)/pkgconfig/deltad.pc $(DESTDIR)$(sysusersdir)/deltad.conf \
		$(DESTDIR)$(tmpfilesdir)/deltad.conf
	for u in systemd/*.service systemd/*.socket; do rm -f $(DESTDIR)$(unitdir)/$${u##*/}; done
	for m in $(MANUALS); do rm -f $(DESTDIR)$(mandir)/man$${m##*.}/$${m##*/}; done
	! cmp -s etc/deltad.yaml $(DESTDIR)$(sysconfdir)/deltad/deltad.yaml || \
		rm $(DESTDIR)$(sysconfdir)/deltad/deltad.yaml
	rmdir --ignore-fail-on-non-empty $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(mandir)/man? \
		$(DESTDIR)$(sysconfdir)/deltad

.PHONY: clean
clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

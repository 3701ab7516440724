# quern. `make demo` builds everything and writes a story; `make test` runs the tests. Nothing but a C compiler is needed.
#
#   all            run, convert, inspect, quality, bench/model, bench/kernels, bench/tokenizer, bench/grammar, bench/serve
#   demo           converts the demo checkpoint and generates from it
#   test           builds and runs every test (cmocka; installs it where missing), and test-emulated
#   test-clients   openai-python, ollama-python and LangChain against ./serve, in a throw-away environment
#   soak           the server under 200 rude clients for a minute
#   test-kqueue    the server's HTTP tests over kqueue, with libkqueue (KQUEUE=PREFIX)
#   test-emulated  the kernels of CPUs that this machine is not, under qemu where it is installed
#   asan ubsan tsan  the tests under a sanitizer
#   fuzz           fuzzers over the parsers (clang)      FUZZ_SECONDS=60
#   bench          the demo model's speed against this machine's limits
#   taps           a developers' tool that writes what each step of a forward pass computes (CONTRIBUTING.md)
#   lint           include directions, sizes of functions and files, forbidden words
#   install        programs into $(PREFIX)/bin           PREFIX=/usr/local
#   clean
# Options: CC=clang  OMP=1 (threads from OpenMP instead of the pool)  DEBUG=1 (no optimisation, allocation guard)

CC      ?= cc
PREFIX  ?= /usr/local
BUILD   ?= build
BIN     ?= .
ARCH    := $(shell $(CC) -dumpmachine | cut -d- -f1)

WARN    = -Wall -Wextra -Wshadow -Wpointer-arith -Wvla -Wformat=2 -Wstrict-prototypes -Wmissing-prototypes
# One arithmetic: no contraction and no reassociation, whatever the compiler; errno and traps of libm are never read.
MATH    = -ffp-contract=off -fno-math-errno -fno-trapping-math
OPT     = $(if $(DEBUG),-O1 -g -DQUERN_DEBUG,-O3 -g1)
CFLAGS  += -std=c11 $(OPT) $(WARN) $(WERROR) $(MATH) $(SAN) -I. -MMD -MP -pthread $(if $(OMP),-fopenmp -DQUERN_OPENMP)
GUARD    = -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign
LDFLAGS += $(SAN) $(if $(DEBUG),$(GUARD)) -pthread $(if $(OMP),-fopenmp)
LDLIBS  += -lm

# Instruction sets: only these files get their flags; everything else runs on any CPU of the architecture.
ifeq ($(ARCH),x86_64)
FLAGS_k_avx2       = -mavx2 -mfma -mf16c
FLAGS_k_avxvnni    = -mavx2 -mfma -mf16c -mavxvnni
FLAGS_k_avx512     = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512
FLAGS_k_avx512vnni = $(FLAGS_k_avx512) -mavx512vnni
FLAGS_k_amx        = $(FLAGS_k_avx512vnni) -mamx-tile -mamx-int8 -mamx-bf16
FLAGS_amx_soft512  = $(FLAGS_k_avx512vnni)
OTHER_ARCH         = kernels/k_neon.c kernels/k_dotprod.c kernels/k_i8mm.c
else
OTHER_ARCH         = $(wildcard kernels/k_avx*.c) kernels/k_amx.c
FLAGS_k_neon       = -march=armv8-a
FLAGS_k_dotprod    = -march=armv8.2-a+dotprod
FLAGS_k_i8mm       = -march=armv8.2-a+dotprod+i8mm
endif

# Sanitizers: the kernels' unrolled text takes them minutes at -O3, and gains nothing there.
$(foreach k,scalar avx2 avxvnni avx512 avx512vnni amx neon dotprod i8mm,$(eval FLAGS_k_$(k) += $$(if $$(SAN),-O1)))

LIB_SRC   := $(filter-out $(OTHER_ARCH),$(wildcard kernels/*.c weights/*.c tokenizer/*.c runtime/*.c))
LIB_OBJ   := $(LIB_SRC:%.c=$(BUILD)/%.o)
TOOLS     := $(patsubst tools/%.c,%,$(wildcard tools/*.c)) $(patsubst tools/%/main.c,%,$(wildcard tools/*/main.c))
BENCHES   := $(foreach b,$(basename $(wildcard bench/*.c)),$(if $(findstring _,$b),,$b))
TESTS     := $(patsubst tests/%.c,%,$(wildcard tests/*_test.c))
PROGRAMS  := $(TOOLS:%=$(BIN)/%) $(BENCHES:%=$(BIN)/%)

.PHONY: all demo test soak test-kqueue test-emulated test-clients bench asan ubsan tsan fuzz taps lint install clean
.SECONDARY:
all: $(PROGRAMS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(FLAGS_$(basename $(notdir $<))) -c $< -o $@

$(BUILD)/libquern.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

# A tool is one file, tools/NAME.c, or a folder of them, tools/NAME/ with main.c.
define TOOL
$(BIN)/$(1): $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/$(1).c tools/$(1)/*.c)) $(BUILD)/libquern.a
	@mkdir -p $$(@D)
	$$(CC) $$(LDFLAGS) $$^ $$(LDLIBS) -o $$@
endef
$(foreach t,$(TOOLS),$(eval $(call TOOL,$(t))))

# A bench is bench/NAME.c, with more of it in bench/NAME_*.c.
define BENCH
$(BIN)/$(1): $(patsubst %.c,$(BUILD)/%.o,$(wildcard $(1).c $(1)_*.c)) $(BUILD)/libquern.a
	@mkdir -p $$(@D)
	$$(CC) $$(LDFLAGS) $$^ $$(LDLIBS) -o $$@
endef
$(foreach b,$(BENCHES),$(eval $(call BENCH,$(b))))

weights/pip-stories.bin: weights/pip-stories/model.safetensors $(BIN)/convert
	$(BIN)/convert weights/pip-stories -o $@ --force

demo: all weights/pip-stories.bin
	$(BIN)/run weights/pip-stories.bin -p "Once upon a time" -n 300

# The server's page: a list of its bytes in octal, the same everywhere.
$(BUILD)/tools/serve/page.c: tools/serve/page.html Makefile
	@mkdir -p $(@D)
	@{ echo '#include "tools/serve/page.h"'; echo 'const char page_html[] = {'; od -An -v -to1 $< | sed "s/ *\([0-7][0-7]*\)/'\\\\\1',/g"; \
	   echo '0};'; echo 'const size_t page_html_n = sizeof page_html - 1;'; } >$@.part
	@mv $@.part $@
$(BUILD)/tools/serve/page.o: $(BUILD)/tools/serve/page.c tools/serve/page.h
	$(CC) $(CFLAGS) -c $< -o $@
$(BIN)/serve: $(BUILD)/tools/serve/page.o

# ---- tests ----
$(BUILD)/tests/%_test: $(BUILD)/tests/%_test.o $(BUILD)/libquern.a
	$(CC) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -lcmocka -o $@
# What reads GGUF files and what measures is part of convert: their tests and fuzzer link all of that but main.
$(BUILD)/tests/gguf_test $(BUILD)/tests/certify_test $(BUILD)/fuzz_gguf: $(patsubst %.c,$(BUILD)/%.o,$(filter-out %/main.c,$(wildcard tools/convert/*.c)))
# The chat's editor and its conversations are parts of run.
$(BUILD)/tests/line_test $(BUILD)/fuzz_line: $(patsubst %,$(BUILD)/tools/run/%.o,line screen width)
$(BUILD)/tests/chat_test $(BUILD)/fuzz_conversation: $(patsubst %,$(BUILD)/tools/run/%.o,conversation conversation_file)
# The server's HTTP.
$(BUILD)/tests/http_test $(BUILD)/tests/http_load_test: $(patsubst %,$(BUILD)/tools/serve/%.o,work http http_exchange http_parse poll)
$(BUILD)/tests/http_parse_test: $(BUILD)/tools/serve/http_parse.o
$(BUILD)/fuzz_http: $(BUILD)/tools/serve/http_parse.o $(BUILD)/tools/serve/proxy.o
$(BUILD)/tests/proxy_test: $(BUILD)/tools/serve/proxy.o
$(BUILD)/tests/hosts_test: $(BUILD)/tools/serve/hosts.o
# The server's scheduler, between models and a queue of the test's own; steps of the engine are made to fail.
$(BUILD)/tests/schedule_test $(BUILD)/tests/schedule_draft_test $(BUILD)/tests/schedule_text_test $(BUILD)/tests/schedule_fair_test: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/serve/models*.c tools/serve/fault.c tools/serve/job.c tools/serve/prefix.c tools/serve/disk.c tools/serve/grammars.c tools/serve/calls.c tools/serve/constrain.c tools/serve/schedule*.c))
$(BUILD)/tests/schedule_test $(BUILD)/tests/schedule_draft_test $(BUILD)/tests/schedule_text_test $(BUILD)/tests/schedule_fair_test: LDFLAGS += -Wl,--wrap=engine_step,--wrap=session_piece,--wrap=session_load_piece
# The models by themselves; openings are held up.
$(BUILD)/tests/models_test: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/serve/models*.c tools/serve/fault.c tools/serve/grammars.c tools/serve/calls.c tools/serve/constrain.c))
$(BUILD)/tests/models_test: LDFLAGS += -Wl,--wrap=engine_open
# Its events, between nothing and the workers.
$(BUILD)/tests/schedule_event_test: $(patsubst %,$(BUILD)/tools/serve/%.o,work schedule_event)
$(BUILD)/tests/schedule_draft_test: LDFLAGS += -Wl,--wrap=now_seconds
# The server's dialects, between HTTP, models and a scheduler of the tests' own.
$(BUILD)/tests/api_test $(BUILD)/tests/api_calls_test $(BUILD)/fuzz_api: $(patsubst %,$(BUILD)/tools/serve/%.o,job fields fields_table request messages structured calls calls_parse grammars infill reply render server guard hosts proxy metrics log memo ping trace disk page) $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/serve/api_*.c))
# What answers are read by, and what constrains them.
$(BUILD)/tests/calls_test $(BUILD)/fuzz_calls: $(patsubst %,$(BUILD)/tools/serve/%.o,calls calls_parse grammars constrain)
# What the load generator makes of replies.
$(BUILD)/tests/load_test: $(patsubst %,$(BUILD)/bench/serve_%.o,http events request figures)
$(BUILD)/tests/page_test: $(BUILD)/tools/serve/page.o
# The kernels of AMX with tiles in plain C.
$(BUILD)/tests/kernels_test: $(BUILD)/tests/amx_soft.o $(BUILD)/tests/amx_soft512.o
$(BUILD)/tests/%_test.o: | cmocka

.PHONY: cmocka
cmocka:
	@CC="$(CC)" sh tests/need_cmocka.sh

test: cmocka all taps $(TESTS:%=$(BUILD)/tests/%)
	@set -e; for t in $(TESTS); do echo "== $$t"; QUERN_BIN=$(BIN) $(BUILD)/tests/$$t; done
	@$(if $(SAN),,MAKE="$(MAKE)" sh tests/emulated.sh $(BUILD))
	@echo "all tests passed"

# A developers' tool, not installed; the tests build it so that it stays buildable.
taps: $(BUILD)/taps
$(BUILD)/taps: $(BUILD)/tests/tools/taps.o $(BUILD)/libquern.a
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# The server under 200 clients for a minute, with the limits that it promises.
soak: cmocka all $(BUILD)/tests/serve_load_test
	QUERN_BIN=$(BIN) QUERN_LOAD_SECONDS=60 QUERN_LOAD_CLIENTS=200 $(BUILD)/tests/serve_load_test

# The server's HTTP tests over kqueue, as BSD and macOS have it: libkqueue does it on Linux. KQUEUE: where that is installed (Debian 12 has no
# package; github.com/mheily/libkqueue builds with cmake in a minute).
KQUEUE ?= /usr
$(BUILD)/kqueue/poll.o: tools/serve/poll.c tools/serve/poll.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DPOLL_KQUEUE -I$(KQUEUE)/include/kqueue -c $< -o $@
$(BUILD)/kqueue/%_test: $(BUILD)/tests/%_test.o $(BUILD)/kqueue/poll.o $(patsubst %,$(BUILD)/tools/serve/%.o,work http http_exchange http_parse) $(BUILD)/libquern.a | cmocka
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -L$(KQUEUE)/lib -Wl,-rpath,$(KQUEUE)/lib -lkqueue -o $@
test-kqueue: $(BUILD)/kqueue/http_test $(BUILD)/kqueue/http_load_test
	@set -e; for t in $^; do echo "== $$t"; $$t; done

test-emulated:
	@MAKE="$(MAKE)" sh tests/emulated.sh $(BUILD)

asan:
	ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 $(MAKE) BUILD=build/asan BIN=build/asan SAN="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" test
ubsan:
	$(MAKE) BUILD=build/ubsan BIN=build/ubsan SAN="-fsanitize=undefined -fno-sanitize-recover=all" test
tsan:
	TSAN_OPTIONS="suppressions=$(CURDIR)/tests/tools/tsan.supp" $(MAKE) BUILD=build/tsan BIN=build/tsan SAN="-fsanitize=thread" test

FUZZ_SECONDS ?= 60
FUZZ_CC ?= $(or $(firstword $(foreach c,clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14,$(shell command -v $(c) 2>/dev/null))),clang)
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz:
	$(MAKE) CC="$(FUZZ_CC)" BUILD=build/fuzz BIN=build/fuzz SAN="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all" fuzzers
	@set -e; for f in $(FUZZERS); do echo "== $$f"; mkdir -p build/fuzz/corpus/$$f; build/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 build/fuzz/corpus/$$f $$(ls -d tests/fuzz/seeds/$$f 2>/dev/null); done
.PHONY: fuzzers
fuzzers: $(FUZZERS:%=$(BUILD)/%)
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/libquern.a
	$(CC) $(LDFLAGS) -fsanitize=fuzzer $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -o $@

test-clients: all weights/pip-stories.bin
	sh tests/tools/clients.sh $(BIN) weights/pip-stories.bin

bench: all weights/pip-stories.bin
	$(BIN)/bench/model weights/pip-stories.bin

lint:
	@mkdir -p build && sh tests/tools/lint.sh

install: all
	mkdir -p $(DESTDIR)$(PREFIX)/bin
	for t in $(TOOLS); do install -m 755 $(BIN)/$$t $(DESTDIR)$(PREFIX)/bin/quern-$$t; done

clean:
	rm -rf build weights/pip-stories.bin $(TOOLS) $(BENCHES)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

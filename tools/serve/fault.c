/* fault: the handler of SIGBUS (fault.h). What it knows stands in variables of the file, since a handler gets no argument; they are atomic, as
 * any thread may come here. It must not know what the files are. mmap is a plain system call: it may be called here. */
#define _GNU_SOURCE
#include "tools/serve/fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_int n_faults;
static _Atomic(void *) place[FAULTS_KEPT]; /* fault i stands in i % FAULTS_KEPT */
static uintptr_t page_bytes;

/* A page behind the file's end becomes one of zeros, and the instruction is done again. Anything else ends the program as ever. */
static void on_fault(int sig, siginfo_t *info, void *context) {
    (void)context;
    char *at = (char *)info->si_addr - (uintptr_t)info->si_addr % page_bytes;
    if (info->si_code != BUS_ADRERR || mmap(at, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) {
        signal(sig, SIG_DFL);
        return;
    }
    atomic_store(&place[(unsigned)atomic_load(&n_faults) % FAULTS_KEPT], info->si_addr);
    atomic_fetch_add(&n_faults, 1);
}

void fault_begin(void) {
    struct sigaction how = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
    sigemptyset(&how.sa_mask);
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigaction(SIGBUS, &how, NULL);
}

int fault_count(void) { return atomic_load(&n_faults); }

int fault_recent(const void *at[FAULTS_KEPT]) {
    int n = fault_count() < FAULTS_KEPT ? fault_count() : FAULTS_KEPT;
    for (int i = 0; i < n; i++) at[i] = atomic_load(&place[i]);
    return n;
}

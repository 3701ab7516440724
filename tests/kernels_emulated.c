/* The kernels without cmocka: every table that this CPU (or emulator) can run against scalar, and a hash of scalar's results
 * that is
 * the same on every architecture. Prints the tables it ran; exit status 1 on a difference. */
#include "tests/kernels_compare.h"

int main(void) {
    const uint64_t expected = 0xcfdc87e2e94e89daull;
    enum { CASES = 400 };
    int status = 0;
    char cpu[160];
    cpu_describe(cpu, sizeof cpu);
    printf("%s\n", cpu);
    const kernels *scalar = kernels_named("scalar");
    hash64 h;
    hash_begin(&h);
    case_compare(scalar, scalar, CASES, &h);
    for (int i = 1; kernels_all()[i]; i++) {
        const kernels *k = kernels_all()[i];
        if (!kernels_usable(k)) continue;
        bool same = case_compare(scalar, k, CASES, NULL) < 0;
        printf("%-12s %s\n", k->name, same ? "same bits as scalar" : "DIFFERS");
        status |= !same;
    }
    printf("hash %016llx, expected %016llx\n", (unsigned long long)hash_end(&h), (unsigned long long)expected);
    return status || hash_end(&h) != expected;
}

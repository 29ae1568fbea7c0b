/* A barrier for threads that share memory. Who waits spins for a while, then sleeps: another process may need the
 * processor, and the thread that is waited for may be one that stands in line for it.
 *
 * The barrier is an array of int32; kernels/threads.py makes it, with the places that stand here, a cache line each. */
#ifndef FASTBP_BARRIER_H
#define FASTBP_BARRIER_H

#include <stddef.h>
#include <stdint.h>

enum { N_THREADS = 0, N_SPINS = 16, ARRIVED = 32, GENERATION = 48, N_ASLEEP = 64, STOPPED = 80 };

#if defined(_MSC_VER)
#include <intrin.h>
#include <windows.h>
#define ATOMIC_ADD(p, n) (_InterlockedExchangeAdd((volatile long *)(p), n) + (n))
#define ATOMIC_LOAD(p) _InterlockedOr((volatile long *)(p), 0)
#define ATOMIC_STORE(p, n) _InterlockedExchange((volatile long *)(p), n)
#else
#define ATOMIC_ADD(p, n) __atomic_add_fetch(p, n, __ATOMIC_SEQ_CST)
#define ATOMIC_LOAD(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define ATOMIC_STORE(p, n) __atomic_store_n(p, n, __ATOMIC_SEQ_CST)
#endif

#if defined(_MSC_VER)
#define SPIN_PAUSE() YieldProcessor()
#elif defined(__x86_64__) || defined(__i386__)
#define SPIN_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define SPIN_PAUSE() __asm__ volatile("yield")
#else
#define SPIN_PAUSE() (void)0
#endif

/* Sleep for a moment, or until woken, if *p is `value`; wake all who sleep so. */
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static inline void sleep_while(int32_t *p, int32_t value) {
    const struct timespec at_most = {0, 10000000};
    syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, value, &at_most, NULL, 0);
}
static inline void wake_all(int32_t *p) {
    syscall(SYS_futex, p, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
#elif defined(_MSC_VER) || defined(_WIN32)
static inline void sleep_while(int32_t *p, int32_t value) {
    (void)p, (void)value;
    SwitchToThread();
}
static inline void wake_all(int32_t *p) {
    (void)p;
}
#else
#include <time.h>
static inline void sleep_while(int32_t *p, int32_t value) {
    const struct timespec moment = {0, 50000};
    (void)p, (void)value;
    nanosleep(&moment, NULL);
}
static inline void wake_all(int32_t *p) {
    (void)p;
}
#endif

/* How long a thread spins. Where the processors are there it is best to spin for long, for a sleeper takes tens of
 * microseconds to wake; where two threads share a processor the one that spins keeps the other from coming. So who had to
 * sleep looks only briefly from then on, and tries a long spin ever more rarely, until one is rewarded. */
typedef struct {
    int32_t has_slept, until_trial, interval;
} Patience;

enum { BRIEF_SPINS = 40, FIRST_INTERVAL = 2, LAST_INTERVAL = 512 };

/* Return when all threads have come here, or one gave up. What each wrote before, all read after. */
static inline void barrier_wait(int32_t *barrier, Patience *p) {
    const int32_t generation = ATOMIC_LOAD(barrier + GENERATION);
    const int is_trial = p->has_slept && p->until_trial-- <= 0;
    const int32_t n_spins = !p->has_slept || is_trial || barrier[N_SPINS] < BRIEF_SPINS ? barrier[N_SPINS] : BRIEF_SPINS;
    if (ATOMIC_ADD(barrier + ARRIVED, 1) == barrier[N_THREADS]) {
        ATOMIC_STORE(barrier + ARRIVED, 0);
        ATOMIC_STORE(barrier + GENERATION, (int32_t)((uint32_t)generation + 1));
        if (ATOMIC_LOAD(barrier + N_ASLEEP)) /* read after the generation was set, which a sleeper reads after this was */
            wake_all(barrier + GENERATION);
        return;
    }
    for (int32_t spin = 0; spin < n_spins; spin++) {
        if (ATOMIC_LOAD(barrier + GENERATION) != generation || ATOMIC_LOAD(barrier + STOPPED)) {
            p->has_slept = p->has_slept && !is_trial;
            return;
        }
        SPIN_PAUSE();
    }
    p->interval = !p->has_slept ? FIRST_INTERVAL : is_trial && p->interval < LAST_INTERVAL ? 2 * p->interval : p->interval;
    if (!p->has_slept || is_trial)
        p->until_trial = p->interval;
    p->has_slept = 1;
    ATOMIC_ADD(barrier + N_ASLEEP, 1);
    while (ATOMIC_LOAD(barrier + GENERATION) == generation && !ATOMIC_LOAD(barrier + STOPPED))
        sleep_while(barrier + GENERATION, generation);
    ATOMIC_ADD(barrier + N_ASLEEP, -1);
}

#endif

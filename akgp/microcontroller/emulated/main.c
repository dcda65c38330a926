/* Runs images on an emulated Cortex-M and prints logits and the instructions of each layer, through semihosting.

   Under `-icount shift=0` an instruction takes one nanosecond of the board's time, of which SysTick is the clock. */
#include <stdint.h>
#include <string.h>

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define CPACR (*(volatile uint32_t *)0xE000ED88u)

#ifndef RELOAD
#define RELOAD 0xFFFFFFu /* all of SysTick's 24 bits */
#endif

#include "@NAME@.h"

static uint32_t ticks[@UPPER@_LAYERS + 1];
static int layers;
static volatile uint32_t wraps;

/* SysTick's ticks since the start: it counts down from RELOAD, interrupts at 0, and goes on from RELOAD. */
static uint32_t now(void)
{
    uint32_t before, left;
    do {
        before = wraps;
        left = SYST_CVR;
    } while (before != wraps);
    return before * (RELOAD + 1) + (left ? RELOAD + 1 - left : 0);
}

static void again(void)
{
    wraps++;
}

static void after_layer(int index)
{
    ticks[index + 1] = now();
    layers = index + 1;
}
#define @UPPER@_AFTER_LAYER(index, output, bytes) after_layer(index)

#include "@NAME@.c"
#include "images.h" /* static const uint8_t images[COUNT][...] */

static int semihosting(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static char text[11 * (@UPPER@_LAYERS + @UPPER@_CLASSES) + 100]; /* a number with a space has 11 at most */
static char *end = text;

static void put_number(uint32_t value, char after)
{
    char digits[10];
    int count = 0;
    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *end++ = digits[--count];
    *end++ = after;
}

static void print(void)
{
    *end++ = '\n';
    *end = 0;
    semihosting(4, text); /* SYS_WRITE0 */
    end = text;
}

/* SysTick's ticks of a loop of a known number of instructions. */
static uint32_t calibrated(void)
{
    const uint32_t before = now();
    uint32_t left = 1000000;
    __asm__ volatile(".syntax unified\n1: subs %0, #1\n bne 1b" : "+l"(left) : : "cc");
    return now() - before;
}

int main(void)
{
    static uint8_t arena[@UPPER@_ARENA_BYTES] ALIGNED;
    uint8_t logits[@UPPER@_CLASSES];
    SYST_RVR = RELOAD;
    SYST_CVR = 0;
    SYST_CSR = 7;
    put_number(calibrated(), ' ');
    print();
    for (int i = 0; i < COUNT; i++) {
        ticks[0] = now();
        @NAME@_run(images[i], logits, arena);
        for (int c = 0; c < @UPPER@_CLASSES; c++)
            put_number(logits[c], ' ');
        print();
    }
    for (int i = 0; i < layers; i++)
        put_number(ticks[i + 1] - ticks[i], ' ');
    print();
    semihosting(0x18, (const void *)0x20026); /* SYS_EXIT: the application has ended */
    for (;;)
        ;
}

extern uint32_t stack_top[], data_start[], data_end[], data_load[], bss_start[], bss_end[];

void reset(void)
{
#if defined(__ARM_FEATURE_MVE)
    CPACR |= 0xFu << 20;
    __asm__ volatile("dsb\n isb");
#endif
    memcpy(data_start, data_load, (size_t)((char *)data_end - (char *)data_start));
    memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
    main();
}

static void fault(void)
{
    semihosting(4, "fault\n");
    semihosting(0x18, (const void *)0x20023);
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, [15] = (void *)again};

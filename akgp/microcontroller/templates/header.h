/* An image classifier in C99 for microcontrollers, written by akgp @VERSION@.
   Its integers equal those of the int8 file bit for bit. */
#ifndef @UPPER@_H
#define @UPPER@_H

#include <stdint.h>

#define @UPPER@_DIGEST "@DIGEST@" /* of the int8 file */

/* The image: uint8 [HEIGHT][WIDTH][CHANNELS], 0 to 255, @COLOR@, as it comes from a camera:
   the network normalizes it. Other sizes are to be resized by averaging pixels. */
#define @UPPER@_HEIGHT @HEIGHT@
#define @UPPER@_WIDTH @WIDTH@
#define @UPPER@_CHANNELS @CHANNELS@
#define @UPPER@_CLASSES @CLASSES@
#define @UPPER@_LAYERS @LAYERS@

/* Bytes of RAM, besides some 400 and CLASSES of stack; of flash for weights and tables, besides some 2,500 of
   code, the names of the classes and the test vector. */
#define @UPPER@_ARENA_BYTES @ARENA@
#define @UPPER@_CONSTANT_BYTES @CONSTANTS@

/* A logit is (integer - LOGIT_ZERO) * LOGIT_SCALE, inputs likewise; the code computes with neither. */
#define @UPPER@_LOGIT_SCALE @LOGIT_SCALE@
#define @UPPER@_LOGIT_ZERO @LOGIT_ZERO@
#define @UPPER@_INPUT_SCALE @INPUT_SCALE@
#define @UPPER@_INPUT_ZERO @INPUT_ZERO@

#ifdef __cplusplus
extern "C" {
#endif

extern const char *const @NAME@_classes[@UPPER@_CLASSES];

/* The quantized input of each pixel value; normalization is part of it. */
extern const uint8_t @NAME@_pixel_tables[@UPPER@_CHANNELS][256];

/* The logits' integers of one image. arena: ARENA_BYTES of memory at a multiple of 4. */
void @NAME@_run(const uint8_t *pixels, uint8_t *logits, void *arena);

/* The class with the largest logit: an index into classes; the first of equals. */
int @NAME@_largest(const uint8_t *logits);

#ifndef @UPPER@_NO_STATIC_ARENA
/* Both use an arena of their own, and so only one may run at a time. */
int @NAME@_classify(const uint8_t *pixels);
int @NAME@_self_test(void); /* 1 if the test vector gives its logits */
#endif

extern const uint8_t @NAME@_test_pixels[@PIXELS@];
extern const uint8_t @NAME@_test_logits[@UPPER@_CLASSES];

#ifdef __cplusplus
}
#endif
#endif

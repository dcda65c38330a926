/* Checks the test vector and classifies one image; exit status 0 if the logits are as expected. */
#include <stdio.h>

#include "@NAME@.h"

int main(void)
{
    const int passed = @NAME@_self_test();
    printf("test vector: %s\n", passed ? "passed" : "FAILED");
    printf("its class: %s\n", @NAME@_classes[@NAME@_classify(@NAME@_test_pixels)]);
    return passed ? 0 : 1;
}

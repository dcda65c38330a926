#include <@NAME@.h>

static uint8_t pixels[@UPPER@_HEIGHT * @UPPER@_WIDTH * @UPPER@_CHANNELS];

void setup() {
  Serial.begin(115200);
  Serial.println(@NAME@_self_test() ? "test vector: passed" : "test vector: FAILED");
}

void loop() {
  // Fill pixels from your camera here.
  const unsigned long start = micros();
  const int found = @NAME@_classify(pixels);
  const unsigned long end = micros();
  Serial.print(@NAME@_classes[found]);
  Serial.print(" in us: ");
  Serial.println(end - start);
  delay(1000);
}

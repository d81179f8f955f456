/*
 * The text that models are calibrated with when none is given: calibration.txt, made an array by the Makefile.
 */
#ifndef PRECIS_COMPRESS_CALIBRATION_TEXT_H
#define PRECIS_COMPRESS_CALIBRATION_TEXT_H

#include <stddef.h>

extern const unsigned char pr__calibration_text[];
extern const size_t pr__calibration_text_len;

#endif

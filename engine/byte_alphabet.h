/*
 * GPT-2's alphabet: one printable character for each byte, so that a vocabulary of bytes can be
 * spelled as text. Bytes that are printable in Latin-1 stand for themselves, the other 68 follow
 * from U+0100 on in their order.
 */
#pragma once

#include "common/base.h"

static inline bool byte_is_printable(uint32_t byte)
{
	return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
	       (byte >= 0xae && byte <= 0xff);
}

/* Fills the characters of all bytes; every one is below U+0144. */
static inline void byte_alphabet(uint16_t ret_characters[static 256])
{
	uint16_t next = 0x100;

	for (uint32_t byte = 0; byte < 256; byte++)
		ret_characters[byte] = byte_is_printable(byte) ? (uint16_t)byte : next++;
}

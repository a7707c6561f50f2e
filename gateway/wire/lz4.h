/* What lz4.c offers to Python: read by the compiler and, as text after alike.h, by cffi. */

uint32_t lz4_frame_size(uint64_t source, uint32_t size);

/* format: the bytes of a model file; FORMAT.md says the same in words. All little-endian. */
#ifndef QUERN_FORMAT_H
#define QUERN_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define QUERN_MAGIC "\x7fQUERN\r\n" /* 8 bytes; \r\n shows a transfer in text mode */
/* Version 2 has plain rows of any type of matrix. Every file of version 1 is one of version 2 but for the number. */
enum { FORMAT_VERSION = 2, FORMAT_OLDEST = 1, FORMAT_DATA_ALIGN = 2 << 20, FORMAT_TENSOR_ALIGN = 64, FORMAT_NAME = 72 };

typedef struct file_header {
    char magic[8];
    uint32_t version, header_bytes; /* 2, 256 */
    uint64_t file_bytes;
    uint64_t meta_hash;             /* XXH64 of bytes [0, data_at), this field taken as 0 */
    uint64_t records_at, records_bytes;
    uint64_t tokenizer_at, tokenizer_bytes; /* 0 bytes: no tokenizer */
    uint64_t table_at;
    uint32_t n_tensors, row_bytes;  /* row_bytes 128 */
    uint64_t data_at;               /* multiple of 2 MiB */
    uint8_t reserved[168];          /* zero */
} file_header;

typedef struct file_tensor {
    char name[FORMAT_NAME];         /* NUL-terminated, NUL-padded */
    uint8_t type, layout, n_dims;   /* wtype, wlayout, 1 or 2 */
    int8_t exponent;                /* scales times 2^exponent */
    uint32_t reserved;
    uint64_t dims[2];               /* [n][k], or [n] with dims[1] = 0 */
    uint64_t at, bytes;             /* from the start of the file; tied tensors share them */
    uint64_t hash;                  /* XXH64 of the bytes */
    uint64_t reserved2;
} file_tensor;

_Static_assert(sizeof(file_header) == 256, "header");
_Static_assert(offsetof(file_header, meta_hash) == 24, "meta_hash");
_Static_assert(offsetof(file_header, data_at) == 80, "data_at");
_Static_assert(sizeof(file_tensor) == 128, "tensor row");
_Static_assert(offsetof(file_tensor, dims) == 80, "dims");
_Static_assert(offsetof(file_tensor, hash) == 112, "hash");

/* A record: u16 bytes of the key, u8 record_type, u8 zero, u32 count, the key padded with zeros to 8, the values padded to 8. */
typedef enum { REC_I64 = 1, REC_F64 = 2, REC_BYTES = 3 } record_type;

#define FORMAT_ADAPTER_KEY "adapter" /* i64, the version: a file with this record is no model but an adapter (runtime/lora.h) */

#endif

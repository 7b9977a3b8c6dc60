# cython: language_level=3, binding=False, boundscheck=False, wraparound=False
# cython: initializedcheck=False, auto_pickle=False, nonecheck=True
"""The compiled twins of hot code, chosen by `protomux.speedups`. Knows bytes, no protocol.

Codecs and the cipher, the way of a frame in and out, and the bucket that counts what comes.

Each has the name of the Python function or class that is its reference, and does what that does
with the types that are usual: `bytes` and `int` themselves, no subclass. Whatever else it is
given, and whatever is wrong, goes to the reference, which handles it or raises: but for one, the
texts of errors stand in Python alone. In a list, the reference is shown the wrong entry only, so
that what a peer makes wrong at the end of a long one is not read twice.

Nothing is read through a pointer before its place was compared with the end of what was given,
nor allocated before what it is for was seen to be there.
"""

from cpython.buffer cimport PyBUF_SIMPLE
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.ref cimport PyObject
from cython cimport no_gc
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from math import ceil, floor

from protomux.errors import ProtocolError

cdef extern from *:
    """
    /* Here, since Cython makes Python objects of literals that are larger than an int. */
    static const uint64_t PROTOMUX_FOUR_BYTES = 0xFFFFFFFF;
    static const uint64_t PROTOMUX_MAX_UINT = (1ULL << 53) - 1;

    /* Bytes 1 to 8 of a little endian integer, whatever the order of this machine. */
    static inline uint64_t protomux_load(const unsigned char *from, int size) {
        uint64_t value = 0;
        while (size--) value = value << 8 | from[size];
        return value;
    }

    static inline void protomux_store(unsigned char *to, uint64_t value, int size) {
        for (; size--; value >>= 8) *to++ = (unsigned char)value;
    }

    /* The value of an int; -1 where it does not fit. Of the small ones without a call. */
    static inline long long protomux_int(PyObject *value) {
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)value))
            return PyUnstable_Long_CompactValue((PyLongObject *)value);
    #else
        if (Py_SIZE(value) == 1) return ((PyLongObject *)value)->ob_digit[0];
    #endif
        int overflow;
        return PyLong_AsLongLongAndOverflow(value, &overflow);
    }

    /* A tuple, or a subclass that is unpacked as tuples are. */
    static inline int protomux_is_pair(PyObject *entry) {
        return PyTuple_Check(entry) && PyTuple_GET_SIZE(entry) == 2
            && Py_TYPE(entry)->tp_iter == PyTuple_Type.tp_iter;
    }

    /* An instance of a named tuple with two fields. Steals both, also where it fails.

       It is never on the cycle collector's list: bytes and int lead to nothing, so a visit to it
       would find nothing, and a long list of them costs many. */
    static inline PyObject *protomux_new_pair(PyTypeObject *type, PyObject *first,
                                              PyObject *second) {
        PyObject *pair = NULL;
        if (first != NULL && second != NULL) {
    #if PY_VERSION_HEX < 0x030F0000
            pair = (PyObject *)PyObject_GC_NewVar(PyTupleObject, type, 2);
            if (pair != NULL) {
        #if PY_VERSION_HEX >= 0x030E0000
                ((PyTupleObject *)pair)->ob_hash = -1;  /* not known yet */
        #endif
                PyTuple_SET_ITEM(pair, 0, first);
                PyTuple_SET_ITEM(pair, 1, second);
                return pair;
            }
    #else  /* a tuple may have fields there that this does not know */
            pair = PyObject_CallFunctionObjArgs((PyObject *)type, first, second, NULL);
    #endif
        }
        Py_XDECREF(first);
        Py_XDECREF(second);
        return pair;
    }

    /* Whether instances are laid out as tuples are, with nothing behind the items. */
    static inline int protomux_is_plain_tuple(PyTypeObject *type) {
        return PyType_IsSubtype(type, &PyTuple_Type)
            && type->tp_basicsize == PyTuple_Type.tp_basicsize
            && type->tp_itemsize == PyTuple_Type.tp_itemsize
            && type->tp_dictoffset == 0;
    }
    """
    ctypedef struct PyTypeObject:
        pass
    const uint64_t FOUR_BYTES "PROTOMUX_FOUR_BYTES"
    const uint64_t MAX_UINT "PROTOMUX_MAX_UINT"
    uint64_t protomux_load(const unsigned char *, int) noexcept
    void protomux_store(unsigned char *, uint64_t, int) noexcept
    long long protomux_int(PyObject *) noexcept
    bint protomux_is_pair(PyObject *) noexcept
    PyObject *protomux_new_pair(PyTypeObject *, PyObject *, PyObject *) except NULL
    bint protomux_is_plain_tuple(PyTypeObject *) noexcept

    # Declared with plain pointers: no count of references changes hands unseen.
    bint PyBool_Check(object)
    bint PyBytes_CheckExact(object)
    bint bytes_is_exact "PyBytes_CheckExact"(PyObject *)
    bint PyDictItems_is_exact "PyDictItems_Check"(object)
    bint PyList_CheckExact(object)
    bint PyLong_Check(object)
    bint PyLong_CheckExact(object)
    bint int_is_exact "PyLong_CheckExact"(PyObject *)
    bint PyTuple_CheckExact(object)
    bint PyUnicode_CheckExact(object)
    bint tuple_is_exact "PyTuple_CheckExact"(PyObject *)

    Py_ssize_t PyLong_AsSsize_t(object) noexcept
    PyObject *PyLong_FromUnsignedLongLong(unsigned long long) noexcept
    PyObject *PyErr_Occurred()
    void PyErr_Clear()

    char *PyBytes_AS_STRING(object)
    char *bytes_start "PyBytes_AS_STRING"(PyObject *)
    Py_ssize_t PyBytes_GET_SIZE(object)
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject *)
    int PyObject_GetBuffer(object, Py_buffer *, int) noexcept
    void PyBuffer_Release(Py_buffer *) noexcept
    object PyBytes_FromStringAndSize(const char *, Py_ssize_t)
    PyObject *new_room "PyBytes_FromStringAndSize"(const char *, Py_ssize_t) except NULL
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *, Py_ssize_t) noexcept

    list PyList_New(Py_ssize_t)
    Py_ssize_t PyList_GET_SIZE(object)
    PyObject *list_item "PyList_GET_ITEM"(object, Py_ssize_t)
    void fill_list "PyList_SET_ITEM"(object, Py_ssize_t, PyObject *)
    list PySequence_List(object)
    Py_ssize_t PY_SSIZE_T_MAX
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) noexcept
    PyObject *PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *) noexcept
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1
    void Py_DECREF(PyObject *)
    void Py_XDECREF(PyObject *)

    PyObject *tuple_item "PyTuple_GET_ITEM"(PyObject *, Py_ssize_t)
    tuple new_tuple "PyTuple_Pack"(Py_ssize_t, PyObject *, PyObject *)

cdef enum:
    ONE_BYTE = 0xFC  # largest integer that has one byte
    KEY = 32  # bytes of a key
    SWITCH = -1  # of frames.py
    OF_CONTROL = 8  # what a control message costs, of intake.py
    MOST_OF_AN_INTEGER = 9  # bytes
    MAX_ARRAY = 0x100000
    LENGTH = 3  # bytes of the length in front of a message
    OVERHEAD = 17  # bytes by which libsodium's secretstream makes a message longer
    PLAIN = 0  # its tag MESSAGE

ctypedef int (*Push)(void *, unsigned char *, unsigned long long *, const unsigned char *,
                     unsigned long long, const unsigned char *, unsigned long long,
                     unsigned char) noexcept nogil
ctypedef int (*Pull)(void *, unsigned char *, unsigned long long *, unsigned char *,
                     const unsigned char *, unsigned long long, const unsigned char *,
                     unsigned long long) noexcept nogil

cdef object switch = SWITCH
cdef object no_length = 0
cdef object usual_length = LENGTH

references = {}
"""The references by name."""

cdef dict _references = references


def twin(reference, /):
    """Return what stands here under the name of `reference`, which it may hand to; see speedups."""
    name = reference.__name__
    compiled = globals().get(name)
    if compiled is None:
        return reference
    references[name] = reference
    if compiled not in _halves:
        return compiled
    rest = {name: value for name, value in vars(reference).items()
            if not (name in vars(compiled) or name in reference.__slots__)}
    kept = {"__slots__": (), "__module__": reference.__module__, "__doc__": reference.__doc__}
    return type(name, (compiled,), {**rest, **kept})


cdef inline bint is_usual(object data, object start, object end, Py_ssize_t *begin,
                          Py_ssize_t *stop) noexcept:
    """Whether `data` is bytes, with `end` inside and `start` not before its begin."""
    if not (PyBytes_CheckExact(data) and PyLong_CheckExact(start) and PyLong_CheckExact(end)):
        return False
    begin[0] = PyLong_AsSsize_t(start)
    stop[0] = PyLong_AsSsize_t(end)
    if begin[0] < 0 or stop[0] < 0:  # -1 also where it does not fit
        if PyErr_Occurred() is not NULL:
            PyErr_Clear()
        return False
    return stop[0] <= PyBytes_GET_SIZE(data)


cdef inline Py_ssize_t read_uint(const unsigned char *data, Py_ssize_t start, Py_ssize_t end,
                                 uint64_t *value) noexcept:
    """Read an integer from data[start:end]; return where it ends, or -1 if it is none."""
    cdef int size
    if start >= end:
        return -1
    value[0] = data[start]
    start += 1
    if value[0] <= ONE_BYTE:
        return start
    size = 1 << (value[0] - ONE_BYTE)
    if size > end - start:
        return -1
    value[0] = protomux_load(data + start, size)
    return start + size if value[0] <= MAX_UINT else -1


cdef inline int uint_size(uint64_t value) noexcept:
    if value <= ONE_BYTE:
        return 1
    if value <= 0xFFFF:
        return 3
    return 5 if value <= FOUR_BYTES else 9


cdef inline int write_uint(unsigned char *to, uint64_t value) noexcept:
    """Write an integer, at most MAX_UINT, and return its bytes; `to` has room for 9."""
    if value <= ONE_BYTE:
        to[0] = <unsigned char>value
        return 1
    if value <= 0xFFFF:
        to[0] = 0xFD
        protomux_store(to + 1, value, 2)
        return 3
    if value <= FOUR_BYTES:
        to[0] = 0xFE
        protomux_store(to + 1, value, 4)
        return 5
    to[0] = 0xFF
    protomux_store(to + 1, value, 8)
    return 9


cdef inline bint is_uint(object value, uint64_t *number) noexcept:
    """Whether `value` is an int from 0 to MAX_UINT, and which."""
    cdef long long found
    if not PyLong_Check(value) or PyBool_Check(value):
        return False
    found = protomux_int(<PyObject *>value)
    number[0] = found
    return 0 <= found <= <long long>MAX_UINT


cdef inline bint is_length(PyObject *value, uint64_t *number) noexcept:
    """Whether `value` is exactly an int, from 0 to MAX_UINT, and which."""
    cdef long long found
    if not int_is_exact(value):
        return False
    found = protomux_int(value)
    number[0] = found
    return 0 <= found <= <long long>MAX_UINT


cdef cut_to(PyObject *data, Py_ssize_t size):
    """Return the first `size` of bytes that nobody else has yet, and that are given away."""
    _PyBytes_Resize(&data, size)  # frees it where it fails
    cut = <object>data
    Py_DECREF(data)
    return cut


cdef refuse_uint(data, Py_ssize_t start, Py_ssize_t end):
    """Raise what is wrong with the integer at `start`."""
    _references["_Uint"].decode(None, data, start, end)
    raise SystemError(f"the twins do not agree at {start} of {end} bytes")


cdef class _Uint:
    """Unsigned integer, 0 to 2^53-1."""

    def encode(self, value, /):
        """Return the bytes of `value`."""
        cdef unsigned char encoded[MOST_OF_AN_INTEGER]
        cdef uint64_t number = 0
        if is_uint(value, &number):
            return PyBytes_FromStringAndSize(<char *>encoded, write_uint(encoded, number))
        return _references["_Uint"].encode(self, value)

    def decode(self, data, start, end, /):
        """Read an integer from `data[start:end]`; return it and the position after it."""
        cdef Py_ssize_t begin = 0, stop = 0
        cdef uint64_t value = 0
        if is_usual(data, start, end, &begin, &stop):
            begin = read_uint(<unsigned char *>PyBytes_AS_STRING(data), begin, stop, &value)
            if begin >= 0:
                return value, begin
        return _references["_Uint"].decode(self, data, start, end)


def writers_of(entries, /):
    """Return `entries`, Writers or (key, length) pairs, as a list."""
    cdef list pairs
    cdef PyObject *entry
    cdef Py_ssize_t index
    # Iterating over these runs nobody's code, so nothing is lost if the reference does it again.
    if not (PyList_CheckExact(entries) or PyTuple_CheckExact(entries)
            or PyDictItems_is_exact(entries)):
        return _references["writers_of"](entries)
    pairs = PySequence_List(entries)
    for index in range(PyList_GET_SIZE(pairs)):
        entry = list_item(pairs, index)
        if not protomux_is_pair(entry):
            return _references["writers_of"](entries)
        if not tuple_is_exact(entry):
            pairs[index] = new_tuple(2, tuple_item(entry, 0), tuple_item(entry, 1))
    return pairs


cdef class AnnounceEncoding:
    """A list of writers; (key, length) pairs do as well."""

    cdef object reference
    cdef object writer
    cdef long long most

    def __init__(self, most=MAX_ARRAY):
        self.reference = _references["AnnounceEncoding"](most)
        self.writer = self.reference._writer
        self.most = floor(max(-1, min(most, MAX_ARRAY)))
        if not (isinstance(self.writer, type)
                and protomux_is_plain_tuple(<PyTypeObject *><PyObject *>self.writer)
                and len(self.writer._fields) == 2):
            raise TypeError(f"expected a named tuple with two fields, got {self.writer!r}")

    def encode(self, value, /):
        """Return the bytes of `value`."""
        if not PyList_CheckExact(value):
            value = writers_of(value)
        encoded = encode_entries(value)
        if encoded is None:
            return self.reference.encode(value)
        return encoded

    def decode(self, data, start, end, /):
        """Read the writers from `data[start:end]`; return them and the position after them."""
        cdef Py_ssize_t begin, position = 0, stop = 0, index
        cdef uint64_t count = 0, length = 0
        cdef const unsigned char *bytes_
        cdef PyTypeObject *type_
        cdef list writers
        if not is_usual(data, start, end, &position, &stop):
            return self.reference.decode(data, start, end)
        bytes_ = <unsigned char *>PyBytes_AS_STRING(data)
        position = read_uint(bytes_, position, stop, &count)
        # All of them fit, so the list is never longer than what the peer has sent.
        if (position < 0 or <long long>count > self.most
                or <Py_ssize_t>count * (KEY + 1) > stop - position):
            return self.reference.decode(data, start, end)
        type_ = <PyTypeObject *><PyObject *>self.writer
        writers = PyList_New(<Py_ssize_t>count)
        for index in range(<Py_ssize_t>count):
            begin = position
            # Past `stop` if the key is cut, and then there is no integer.
            position = read_uint(bytes_, begin + KEY, stop, &length)
            if position < 0:
                refuse_uint(data, begin + KEY, stop)
            fill_list(writers, index, protomux_new_pair(
                type_, new_bytes(<char *>bytes_ + begin, KEY), PyLong_FromUnsignedLongLong(length)))
        return writers, position


cdef encode_entries(list entries):
    """Return the bytes of exact (32 bytes, integer) pairs; None if any is something else."""
    cdef Py_ssize_t count = PyList_GET_SIZE(entries)
    cdef Py_ssize_t index
    cdef PyObject *entry
    cdef PyObject *key
    cdef PyObject *encoded
    cdef char *to
    cdef uint64_t length = 0
    if count > MAX_ARRAY:
        return None
    # Room for the longest lengths; what is left is given back. Two rounds would save that, but
    # entries are all over the memory, and to fetch them is most of the work.
    encoded = new_room(NULL, MOST_OF_AN_INTEGER + count * (KEY + MOST_OF_AN_INTEGER))
    to = bytes_start(encoded)
    to += write_uint(<unsigned char *>to, count)
    for index in range(count):  # nothing in here runs Python code that could change `entries`
        entry = list_item(entries, index)
        if not protomux_is_pair(entry):
            break
        key = tuple_item(entry, 0)
        if not (bytes_is_exact(key) and bytes_size(key) == KEY
                and is_length(tuple_item(entry, 1), &length)):
            break
        memcpy(to, bytes_start(key), KEY)
        to += KEY
        to += write_uint(<unsigned char *>to, length)
    else:
        return cut_to(encoded, to - bytes_start(encoded))
    Py_DECREF(encoded)
    return None


def decode_open(data, start, end):
    """Read the payload of an open from `data[start:end]`."""
    cdef Py_ssize_t begin, position = 0, stop = 0
    cdef uint64_t channel = 0, size = 0
    cdef const unsigned char *bytes_
    cdef PyObject *text
    if not is_usual(data, start, end, &position, &stop):
        return _references["decode_open"](data, start, end)
    bytes_ = <unsigned char *>PyBytes_AS_STRING(data)
    position = read_uint(bytes_, position, stop, &channel)
    if position >= 0:
        position = read_uint(bytes_, position, stop, &size)
    if position < 0 or size > <uint64_t>(stop - position):
        return _references["decode_open"](data, start, end)
    text = PyUnicode_DecodeUTF8(<char *>bytes_ + position, <Py_ssize_t>size, NULL)
    if text is NULL:
        PyErr_Clear()
        return _references["decode_open"](data, start, end)
    protocol = <object>text
    Py_DECREF(text)
    begin = read_uint(bytes_, position + <Py_ssize_t>size, stop, &size)
    if begin < 0 or size > <uint64_t>(stop - begin):
        return _references["decode_open"](data, start, end)
    position = begin + <Py_ssize_t>size
    id = PyBytes_FromStringAndSize(<char *>bytes_ + begin, <Py_ssize_t>size) if size else None
    return channel, protocol, id, position


def open_body(channel, protocol, id, handshake):
    """Return the body of an open; `handshake` is encoded already."""
    cdef Py_ssize_t name_size = 0
    cdef Py_ssize_t id_size, handshake_size
    cdef uint64_t number = 0
    cdef const char *name
    cdef unsigned char *to
    if not (is_uint(channel, &number) and PyUnicode_CheckExact(protocol)
            and (id is None or PyBytes_CheckExact(id)) and PyBytes_CheckExact(handshake)):
        return _references["open_body"](channel, protocol, id, handshake)
    name = PyUnicode_AsUTF8AndSize(protocol, &name_size)
    if name is NULL:
        PyErr_Clear()
        return _references["open_body"](channel, protocol, id, handshake)
    id_size = 0 if id is None else PyBytes_GET_SIZE(id)
    handshake_size = PyBytes_GET_SIZE(handshake)
    body = PyBytes_FromStringAndSize(
        NULL, 1 + uint_size(number) + uint_size(name_size) + name_size
        + uint_size(id_size) + id_size + handshake_size)
    to = <unsigned char *>PyBytes_AS_STRING(body)
    to[0] = 1
    to += 1
    to += write_uint(to, number)
    to += write_uint(to, name_size)
    memcpy(to, name, name_size)
    to += name_size
    to += write_uint(to, id_size)
    if id_size:
        memcpy(to, PyBytes_AS_STRING(id), id_size)
        to += id_size
    memcpy(to, PyBytes_AS_STRING(handshake), handshake_size)
    return body


cdef inline Py_ssize_t read_head(frame, uint64_t *channel, uint64_t *type_) noexcept:
    """Read what a frame begins with; return the position behind it, or -1 if that is not there."""
    cdef const unsigned char *data
    cdef Py_ssize_t position
    if not PyBytes_CheckExact(frame):
        return -1
    data = <unsigned char *>PyBytes_AS_STRING(frame)
    position = read_uint(data, 0, PyBytes_GET_SIZE(frame), channel)
    if position < 0:
        return -1
    return read_uint(data, position, PyBytes_GET_SIZE(frame), type_)


def frame_head(frame):
    """Return what a frame begins with: a channel, a type, and the position behind them."""
    cdef uint64_t channel = 0, type_ = 0
    cdef Py_ssize_t position = read_head(frame, &channel, &type_)
    if position < 0:
        return _references["frame_head"](frame)
    return channel, type_, position


def iter_batch(data, start, end):
    """Yield (channel, type, start, end) of every body in the payload of a batch, as it is read."""
    cdef Py_ssize_t begin = 0, stop = 0
    if not is_usual(data, start, end, &begin, &stop):
        return _references["iter_batch"](data, start, end)
    return Batch.__new__(Batch, data, begin, stop)


@no_gc  # holds bytes and an int
cdef class Batch:
    """What `iter_batch` returns. Ended for good with an error, as a generator is."""

    cdef object data
    cdef object channel  # None before the first
    cdef Py_ssize_t position
    cdef Py_ssize_t end
    cdef object type  # of what `step` found, SWITCH for a switch
    cdef Py_ssize_t start  # of its payload
    cdef Py_ssize_t after  # its end

    def __cinit__(self, bytes data not None, Py_ssize_t start, Py_ssize_t end):
        self.data = data
        self.position = max(start, 0)
        self.end = min(end, PyBytes_GET_SIZE(data))

    def __iter__(self):
        return self

    def __next__(self):
        if not self.step():
            raise StopIteration
        return self.channel, self.type, self.start, self.after

    cdef bint step(self) except -1:
        """Find the next body, or switch; False at the end."""
        cdef const unsigned char *data = <unsigned char *>PyBytes_AS_STRING(self.data)
        cdef Py_ssize_t end = self.end
        cdef Py_ssize_t position = self.position
        cdef Py_ssize_t begin, after
        cdef uint64_t size = 0
        self.position = end  # nothing follows an error
        if self.channel is None:
            self.channel = 0
            position = self.read_channel(data, position)
        if position >= end:
            return False
        begin = read_uint(data, position, end, &size)
        if begin < 0:
            refuse_uint(self.data, position, end)
        if size == 0:
            self.type = switch
            self.position = self.start = self.after = self.read_channel(data, begin)
            return True
        if size > <uint64_t>(end - begin):
            raise ProtocolError(
                f"expected {size} bytes of a batched message at {begin}, got {end - begin}")
        after = begin + <Py_ssize_t>size
        position = read_uint(data, begin, after, &size)
        if position < 0:
            refuse_uint(self.data, begin, after)
        self.type, self.start = size, position
        self.position = self.after = after
        return True

    cdef Py_ssize_t read_channel(self, const unsigned char *data, Py_ssize_t position) except -1:
        cdef uint64_t channel = 0
        cdef Py_ssize_t after = read_uint(data, position, self.end, &channel)
        if after < 0:
            refuse_uint(self.data, position, self.end)
        self.channel = channel
        return after


cdef class FrameBuilder:
    """Collects bodies and makes frames of them: a batch, or a lone message."""

    cdef Py_ssize_t batch_size
    cdef Py_ssize_t batch_messages
    cdef Py_ssize_t frame_size
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t count
    cdef uint64_t channel  # of the last body
    cdef bytes first  # a lone body: copied into a batch when a second one comes
    cdef PyObject *batch  # bytes that nobody else has yet, owned; NULL below two bodies
    cdef Py_ssize_t room  # bytes of it

    def __init__(self, batch_size, batch_messages, frame_size):
        self.batch_size = ceil(min(batch_size, PY_SSIZE_T_MAX))
        self.batch_messages = ceil(min(batch_messages, PY_SSIZE_T_MAX))
        self.frame_size = floor(min(frame_size, PY_SSIZE_T_MAX))

    def __dealloc__(self):
        Py_XDECREF(self.batch)

    cpdef add(self, channel, body):
        """Collect `body`; return the frame of what came before it, if that is full now."""
        cdef uint64_t number = 0
        cdef Py_ssize_t body_size, cost, switch
        cdef unsigned char *to
        cut = None
        if not is_uint(channel, &number):
            _references["_Uint"].encode(None, channel)  # raises
        if not PyBytes_CheckExact(body):
            body = bytes(memoryview(body))
        body_size = PyBytes_GET_SIZE(body)
        cost = uint_size(body_size) + body_size
        switch = 1 + uint_size(number)
        if self.count and (self.size >= self.batch_size or self.count >= self.batch_messages
                           or self.size + switch + cost > self.frame_size):
            cut = self.take()
        if self.count == 0:
            self.first = body
            self.size = 1 + switch + cost
        else:
            if self.count == 1:
                self.begin_batch(cost + switch)
            if number == self.channel:
                switch = 0
            self.make_room(cost + switch)
            to = <unsigned char *>bytes_start(self.batch) + self.size
            if switch:
                to[0] = 0
                to += 1
                to += write_uint(to, number)
            to += write_uint(to, body_size)
            memcpy(to, PyBytes_AS_STRING(body), body_size)
            self.size += cost + switch
        self.channel = number
        self.count += 1
        return cut

    cpdef take(self):
        """Return all that is collected as one frame, and forget it; None if there is nothing."""
        cdef Py_ssize_t size = self.size
        cdef Py_ssize_t count = self.count
        cdef PyObject *batch = self.batch
        cdef bytes first = self.first
        cdef unsigned char *to
        self.size = self.count = self.room = 0
        self.batch = NULL
        self.first = None
        if count == 0:
            return None
        if count == 1:
            frame = PyBytes_FromStringAndSize(
                NULL, uint_size(self.channel) + PyBytes_GET_SIZE(first))
            to = <unsigned char *>PyBytes_AS_STRING(frame)
            to += write_uint(to, self.channel)
            memcpy(to, PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first))
            return frame
        return cut_to(batch, size)

    cdef int begin_batch(self, Py_ssize_t more) except -1:
        """Begin a batch with the body that was alone; there is room for `more` bytes then."""
        cdef Py_ssize_t first_size = PyBytes_GET_SIZE(self.first)
        cdef unsigned char *to
        cdef Py_ssize_t room = 2 * (self.size + more)
        self.batch = new_room(NULL, room)
        self.room = room
        to = <unsigned char *>bytes_start(self.batch)
        to[0] = to[1] = 0
        to += 2
        to += write_uint(to, self.channel)
        to += write_uint(to, first_size)
        memcpy(to, PyBytes_AS_STRING(self.first), first_size)
        self.first = None
        return 0

    cdef int make_room(self, Py_ssize_t more) except -1:
        """Let the batch have room for `more` bytes."""
        if more > self.room - self.size:
            self.room = 2 * (self.size + more)
            try:
                _PyBytes_Resize(&self.batch, self.room)  # frees it where it fails
            except MemoryError:
                self.size = self.count = self.room = 0
                raise
        return 0


cdef class TickEnd:
    """What is to be flushed at the end of a loop's tick; the reference finds the one of a loop."""

    cdef object __weakref__
    cdef public list _waiting

    def __init__(self):
        self._waiting = []

    cpdef add(self, writer, loop):
        """Flush `writer` then, in the context of this call. The same loop each time."""
        self._waiting.append((writer, PyContext_CopyCurrent()))
        if len(self._waiting) == 1:
            loop.call_soon(self._flush, loop)

    def _flush(self, loop):
        waiting, self._waiting = self._waiting, []
        interrupted = None
        for writer, context in waiting:
            try:
                PyContext_Enter(context)
                try:
                    writer.flush()
                finally:
                    PyContext_Exit(context)
            except Exception as error:
                self._report(error, loop)
            except BaseException as error:  # the others lose nothing by it
                interrupted = error
        if interrupted is not None:
            raise interrupted


cdef class FrameWriter:
    """Writes what is sent during a loop tick at its end; the reference has what is seldom done."""

    cdef public object _stream
    cdef public object _on_drain
    cdef public object _fail
    cdef public object _limits
    cdef public object _loop
    cdef public TickEnd _tick_end
    cdef public FrameBuilder _builder
    cdef public object _longest
    cdef public double _unsent_size
    cdef public object _unsent
    cdef public object _corks
    cdef public bint drained
    cdef public bint _flush_is_due
    cdef public bint _is_ready
    cdef public bint _drain_is_owed
    cdef public bint _is_closed

    def send(self, channel, body):
        """Take `body` for the next frame; False: better wait for `on_drain`."""
        if len(body) > self._longest:
            self.check_size(len(body))
        if self._is_closed:
            return False
        cut = self._builder.add(channel, body)
        if cut is not None:
            self._write(cut)
            self.drained = self._is_ready
        if not self._flush_is_due and not self._corks:
            self._flush_soon()
        if self._is_ready and self._builder.size <= self._unsent_size:
            return True
        self.drained = False
        self._drain_is_owed = True
        return False

    cpdef _flush_soon(self):
        if not self._flush_is_due:
            self._flush_is_due = True
            self._tick_end.add(self, self._loop)

    def flush(self):
        """Write what is there, unless it is held back by a cork."""
        self._flush_is_due = False
        if self._corks:
            return
        frame = self._builder.take()
        if frame is not None:
            self._write(frame)
            self._drain()

    cpdef _write(self, frame):
        if self._is_closed:
            return
        try:
            if not self._is_ready:
                self._count_unsent(len(frame))
            if not self._stream.write(frame):
                self._is_ready = self.drained = False
                self._drain_is_owed = True
        except Exception as error:  # a stream that loses a frame is of no use any more
            self._fail(error)

    cpdef _drain(self):
        self.drained = self._is_ready and self._builder.size <= self._unsent_size
        if self._drain_is_owed and self.drained:
            self._drain_is_owed = False
            self._on_drain()


cdef class Intake:
    """Hands on every message of a stream, in order; the reference has what is seldom done."""

    cdef public object receive
    cdef public dict routes
    cdef public object _stream
    cdef public object _fail
    cdef public object _limits
    cdef public object _loop
    cdef public object _timer
    cdef public object _paused_since
    cdef public object _paused_until
    cdef public object _turn_began
    cdef public object _ended
    cdef public object _frame
    cdef public object _bodies
    cdef public object _frames
    cdef public object _frames_size
    cdef public double _longest
    cdef public Py_ssize_t _pauses
    cdef public Py_ssize_t _stream_pauses
    cdef public Py_ssize_t _left
    cdef public Py_ssize_t _until_look
    cdef public Py_ssize_t _count
    cdef public bint _turn_is_due
    cdef public bint _stream_is_paused
    cdef public bint _is_closed

    def take(self, frame):
        """A frame came."""
        if self._is_closed:
            return
        if (self._pauses or self._stream_pauses or self._turn_is_due
                or len(frame) > self._longest):
            self._keep(frame)
        else:
            self._take(frame)

    cpdef _take(self, frame):
        cdef Py_ssize_t position
        cdef uint64_t channel = 0, type_ = 0
        if not len(frame):
            self._count_step(1)
            return
        try:
            position = read_head(frame, &channel, &type_)
            if position < 0:
                channel, type_, position = _references["frame_head"](frame)
            if not (channel or type_):
                self._frame = frame
                self._bodies = iter_batch(frame, position, len(frame))
                self._count = 0
                self._go_on(self._bodies)
                return
            self._count_step(1 if channel else OF_CONTROL)
            self.hand_to(channel, type_, frame, position, len(frame))
        except Exception as error:  # an application's encoding may raise anything
            self._refuse(error)

    cpdef _go_on(self, bodies):
        """Hand on bodies of the batch in hand, until it or the turn is over."""
        cdef Batch batch
        if type(bodies) is not Batch:  # nobody hands in frames that are not bytes
            return _references["Intake"]._go_on(self, bodies)
        batch = bodies
        frame = self._frame
        while batch.step():
            self._until_look -= 1 if batch.channel else OF_CONTROL
            if self._until_look <= 0:
                self._look()
            if batch.type is not switch:
                self._count += 1
                self.hand_to(batch.channel, batch.type, frame, batch.start, batch.after)
            if self._is_closed:
                return
            if self._turn_is_due or self._pauses:
                self._check_count()
                return
        self._check_count()
        self._bodies = None
        self._frame = b""

    cdef int hand_to(self, channel, type_, frame, Py_ssize_t start, Py_ssize_t end) except -1:
        route = self.routes.get(channel)
        if route is not None:
            route.channel.deliver(type_, frame, start, end)
        else:
            self.receive(channel, type_, frame, start, end)
        return 0

    cpdef _count_step(self, Py_ssize_t cost):
        """Count a message; look at the time when there were enough."""
        self._until_look -= cost
        if self._until_look <= 0:
            self._look()


cdef class TokenBucket:
    """Fills with `rate.per_second` up to `rate.burst`; what comes takes from it."""

    cdef double burst
    cdef double per_second
    cdef double level
    cdef double since

    def __init__(self, rate, double now):
        self.burst, self.per_second = rate
        self.level = self.burst
        self.since = now

    cdef inline double fill(self, double now) noexcept:
        cdef double level = self.level + (now - self.since) * self.per_second
        self.since = now
        return level if level < self.burst else self.burst

    cdef inline double draw(self, double cost, double now) noexcept:
        self.level = self.fill(now) - cost
        if self.level >= 0:
            return 0.0
        return -self.level / self.per_second if self.per_second else INFINITY

    def take(self, double cost, double now):
        """Take `cost`; return the seconds until there is nothing owed, 0 if there is not."""
        return self.draw(cost, now)

    def take_if_there(self, double cost, double now):
        """Take `cost` if so much is there; tell whether it was."""
        self.level = self.fill(now)
        if self.level < cost:
            return False
        self.level -= cost
        return True


cdef class Meter:
    """Bounds messages, and what is in them, by a bucket of each."""

    cdef TokenBucket messages
    cdef TokenBucket entries

    def __init__(self, messages, entries, double now):
        self.messages = TokenBucket(messages, now)
        self.entries = TokenBucket(entries, now)

    def take(self, double entries, double now):
        """Take a message of so many entries; return the seconds until nothing is owed for it."""
        return max(self.messages.draw(1, now), self.entries.draw(entries, now))


cdef class Incoming:
    """Bytes as they come, of which whole messages are taken; the reference keeps and drops them."""

    cdef public object _data
    cdef public object opener
    cdef public object taker
    cdef public double _longest
    cdef public Py_ssize_t _position
    cdef public long long received
    cdef public Py_ssize_t waiting
    cdef public Py_ssize_t size

    def feed(self, data, /):
        """So much more came: then `hand_on`."""
        cdef Py_ssize_t more = len(data)
        if more == 0:
            return self.hand_on()
        if self.waiting:
            kept = self._data if isinstance(self._data, bytearray) else self._keep()
            kept += data
        else:
            # Not to be taken for our own, which `_keep` changes.
            self._data = memoryview(data) if isinstance(data, bytearray) else data
            self._position = 0
        self.received += more
        self.waiting += more
        self.find_size()
        return self.hand_on()

    def take(self, read, /):
        """Step behind the next message and return `read(data, start, end)` of it."""
        cdef Py_ssize_t start = self._position + LENGTH
        cdef Py_ssize_t end = start + self.size
        if self.size < 0 or self.waiting < LENGTH + self.size:
            return None
        data = self._data
        self.step()
        return read(data, start, end)

    cpdef hand_on(self):
        """Let each message that is there as a whole be taken."""
        cdef Py_ssize_t start, end
        is_all = False
        while self.taker is not None and self.size <= self._longest:
            if self.size < 0 or self.waiting < LENGTH + self.size:
                is_all = True
                break
            start = self._position + LENGTH
            end = start + self.size
            opener = self.opener
            data = self._data
            self.step()
            frame = (<Decryptor>opener).open(data, start, end) if type(opener) is Decryptor else None
            if frame is None:
                frame = opener.decrypt(data, start, end)
            data = None  # nothing of what was taken is held
            self.taker.frame_received(frame)
            frame = None
        if self.waiting:
            self._keep()
        return is_all

    cdef int step(self) except -1:
        """Step behind the next message."""
        cdef Py_ssize_t size = LENGTH + self.size
        self._position += size
        self.waiting -= size
        if self.waiting == 0:  # nothing of what was taken is held
            self._data = b""
        self.find_size()
        return 0

    cdef int find_size(self) except -1:
        cdef Py_ssize_t at = self._position
        cdef Py_buffer view
        cdef bint is_found
        data = self._data
        if self.waiting < LENGTH:
            self.size = -1
            return 0
        if PyBytes_CheckExact(data):
            self.size = protomux_load(<unsigned char *>PyBytes_AS_STRING(data) + at, LENGTH)
            return 0
        if type(data) is memoryview or type(data) is bytearray:
            if PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) == 0:
                is_found = view.itemsize == 1 and at + LENGTH <= view.len
                if is_found:
                    self.size = protomux_load(<unsigned char *>view.buf + at, LENGTH)
                PyBuffer_Release(&view)
                if is_found:
                    return 0
            else:
                PyErr_Clear()
        self.size = data[at] | data[at + 1] << 8 | data[at + 2] << 16
        return 0


# Without their own entry on the cycle collector's list: they hold bytes and the state, and that
# holds nothing that leads back.
@no_gc
cdef class Encryptor:
    """The sending half. Small messages are libsodium's, called by its address."""

    cdef public object _state
    cdef public object header
    cdef object owner  # of what is at `state`
    cdef void *state
    cdef Push push
    cdef Py_ssize_t crossover

    def __init__(self, key, is_initiator, handshake_hash):
        self.crossover = 0
        _references["Encryptor"].__init__(self, key, is_initiator, handshake_hash)
        cdef size_t state, push, crossover
        self.owner = self._state
        state, push, _, crossover = self.owner.native()
        self.state, self.push, self.crossover = <void *>state, <Push>push, crossover

    def encrypt(self, plaintext, length_size=0):
        """Return the message of `plaintext`, and its length in front of it in so many bytes."""
        cdef Py_ssize_t size, before
        cdef unsigned char *to
        if not (PyBytes_CheckExact(plaintext) and PyBytes_GET_SIZE(plaintext) < self.crossover
                and (length_size is no_length or length_size is usual_length)):
            return _references["Encryptor"].encrypt(self, plaintext, length_size)
        size, before = PyBytes_GET_SIZE(plaintext), 0 if length_size is no_length else LENGTH
        message = PyBytes_FromStringAndSize(NULL, before + size + OVERHEAD)
        to = <unsigned char *>PyBytes_AS_STRING(message)
        protomux_store(to, size + OVERHEAD, <int>before)
        self.push(self.state, to + before, NULL, <unsigned char *>PyBytes_AS_STRING(plaintext),
                  size, NULL, 0, PLAIN)
        return message


@no_gc
cdef class Decryptor:
    """The receiving half. Small messages are libsodium's, called by its address."""

    cdef public object _state
    cdef public object _key
    cdef public object _expected_id
    cdef object owner  # of what is at `state`
    cdef void *state
    cdef Pull pull
    cdef Py_ssize_t crossover
    cdef bint is_started

    def __init__(self, key, is_initiator, handshake_hash):
        self.is_started = False
        self.crossover = 0
        _references["Decryptor"].__init__(self, key, is_initiator, handshake_hash)
        cdef size_t state, pull, crossover
        self.owner = self._state
        state, _, pull, crossover = self.owner.native()
        self.state, self.pull, self.crossover = <void *>state, <Pull>pull, crossover

    def start(self, header, /):
        """Take the peer's header."""
        _references["Decryptor"].start(self, header)
        self.is_started = True

    def decrypt(self, data, start=0, end=None):
        """Return the plaintext of the next message, which is `data[start:end]`."""
        cdef Py_ssize_t begin, stop
        plaintext = None
        if PyLong_CheckExact(start) and PyLong_CheckExact(end):
            begin, stop = PyLong_AsSsize_t(start), PyLong_AsSsize_t(end)
            if begin >= 0 and stop >= 0:
                plaintext = self.open(data, begin, stop)
            elif PyErr_Occurred() is not NULL:  # -1 also where it does not fit
                PyErr_Clear()
        if plaintext is None:
            return _references["Decryptor"].decrypt(self, data, start, end)
        return plaintext

    cdef open(self, data, Py_ssize_t begin, Py_ssize_t stop):
        """Return the plaintext of a small message; None leaves it to the reference."""
        cdef Py_buffer view
        if PyBytes_CheckExact(data):
            return self.pull_from(
                <unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), begin, stop)
        if not (type(data) is memoryview or type(data) is bytearray):
            return None
        if PyObject_GetBuffer(data, &view, PyBUF_SIMPLE):
            PyErr_Clear()
            return None
        try:
            if view.itemsize == 1:
                return self.pull_from(<unsigned char *>view.buf, view.len, begin, stop)
        finally:
            PyBuffer_Release(&view)

    cdef pull_from(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t begin,
                   Py_ssize_t stop):
        """As `open`.

        libsodium leaves the state as it was where it refuses one, so that the reference refuses it
        in the same way.
        """
        if (not self.is_started or stop > size or stop - begin < OVERHEAD
                or stop - begin - OVERHEAD >= self.crossover):
            return None
        plaintext = PyBytes_FromStringAndSize(NULL, stop - begin - OVERHEAD)
        if self.pull(self.state, <unsigned char *>PyBytes_AS_STRING(plaintext), NULL, NULL,
                     data + begin, stop - begin, NULL, 0):
            return None
        return plaintext


_halves = {FrameWriter, Incoming, Intake, TickEnd}
"""Classes of which only the hot methods are here; `twin` puts the others of the reference in."""

#include "client/proto.h"

const char *proto_status_name(uint32_t status)
{
	switch ((enum proto_status)status) {
	case PROTO_STATUS_OK:
		return "ok";
	case PROTO_STATUS_BAD_MESSAGE:
		return "bad message";
	case PROTO_STATUS_BAD_VERSION:
		return "bad version";
	case PROTO_STATUS_NOT_SUPPORTED:
		return "not supported";
	case PROTO_STATUS_NOT_PERMITTED:
		return "not permitted";
	case PROTO_STATUS_BAD_ARGUMENT:
		return "bad argument";
	case PROTO_STATUS_UNKNOWN_VARIANT:
		return "unknown variant";
	case PROTO_STATUS_LOAD_FAILED:
		return "loading failed";
	case PROTO_STATUS_WRONG_BASE:
		return "wrong base";
	case PROTO_STATUS_NOT_RESIDENT:
		return "not resident";
	case PROTO_STATUS_BUDGET:
		return "over budget";
	case PROTO_STATUS_BUSY:
		return "busy";
	case PROTO_STATUS_TOO_LONG:
		return "too long";
	case PROTO_STATUS_NO_CHAT_FORMAT:
		return "no chat format";
	case PROTO_STATUS_SHUTTING_DOWN:
		return "shutting down";
	case PROTO_STATUS_INTERNAL:
		return "internal error";
	}
	return "unknown status";
}

const char *proto_residency_name(enum proto_residency residency)
{
	switch (residency) {
	case PROTO_RESIDENCY_DISK:
		return "disk";
	case PROTO_RESIDENCY_LOADING:
		return "loading";
	case PROTO_RESIDENCY_RESIDENT:
		return "resident";
	case PROTO_RESIDENCY_DRAINING:
		return "draining";
	case PROTO_RESIDENCY_FAILED:
		return "failed";
	}
	return "unknown";
}

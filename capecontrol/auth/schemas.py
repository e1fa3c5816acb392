"""The JSON of accounts: what the endpoints read and what they answer (contract V1 to V9)."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    computed_field,
    model_validator,
)

from capecontrol.web.text_rules import many_lines, name_line, one_line, spoken

ROLES = ("customer", "client", "developer")
NAMES = ("full_name", "firstName", "lastName")
LONGEST_NAME = 200
LONGEST_COMPANY = 255
LONGEST_LINE = 1000
LONGEST_TEXT = 8000
LONGEST_PASSWORD_READ = 4096
"""Characters of a password that are read at all; the rule's own limit is lower and says so in words."""


def _blank_is_absent(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _one_line(value: str | None, info: ValidationInfo) -> str | None:
    if value is None:
        return None
    return one_line(value, label=_label(info), limit=LONGEST_LINE)


def _name_line(value: str | None, info: ValidationInfo) -> str | None:
    if value is None:
        return None
    return name_line(value, label=_label(info), limit=LONGEST_LINE)


def _many_lines(value: str, info: ValidationInfo) -> str:
    return many_lines(value, label=_label(info), limit=LONGEST_TEXT)


def _label(info: ValidationInfo) -> str:
    return spoken(info.field_name or "text")


def _accepted(value: bool | None) -> bool | None:
    if value is False:
        raise ValueError("The terms must be accepted to open an account.")
    return value


OptionalLine = Annotated[str | None, BeforeValidator(_blank_is_absent), AfterValidator(_one_line)]
"""Text that may be absent; empty strings and null mean absent."""
OptionalName = Annotated[str | None, BeforeValidator(_blank_is_absent), AfterValidator(_name_line)]
"""The same of what others are shown as a name."""
Written = Annotated[str, AfterValidator(_many_lines)]
"""Text as somebody wrote it, in one line or many."""


def _name(value: str | None, info: ValidationInfo) -> str | None:
    line = _name_line(value, info)
    if line == "":
        raise ValueError(f"{_label(info)} is required.")
    return line


def _behind_the_first(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None and len(f"{info.data.get('firstName') or ''} {value}".strip()) > LONGEST_NAME:
        raise ValueError(f"First and last name together are too long: at most {LONGEST_NAME} characters.")
    return value


def _role(value: Any) -> Any:
    if value == "":
        return None
    return "client" if value == "customer" else value


Name = Annotated[str | None, AfterValidator(_name)]
"""A name, or None where the caller calls it something else; `RegistrationBody` sees to it that there is one."""
Role = Annotated[
    Literal["client", "developer"] | None,
    BeforeValidator(_role),
    WithJsonSchema({"anyOf": [{"enum": [*ROLES, ""]}, {"type": "null"}]}),
]


Terms = Annotated[bool | None, AfterValidator(_accepted)]


def _describe_both_vocabularies(schema: dict[str, Any]) -> None:
    """Add that any of the names of a person will do."""
    schema["anyOf"] = [{"required": [name]} for name in NAMES]


class EmailQuery(BaseModel):
    """An address to check; one that is too long for any is no address, and not a mistake of the request."""

    email: str


class PasswordBody(BaseModel):
    """A password to judge, by its owner's address and name too where they are given."""

    password: str = Field(max_length=LONGEST_PASSWORD_READ)
    email: str | None = Field(default=None, max_length=1000)
    full_name: str | None = Field(default=None, max_length=LONGEST_NAME)


class RegistrationBody(BaseModel):
    """A registration in either vocabulary: the browser client's (`firstName`, `role`, `company`) or ours."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True, json_schema_extra=_describe_both_vocabularies)

    email: str = Field(max_length=1000)
    password: str = Field(max_length=LONGEST_PASSWORD_READ)
    full_name: Name = Field(default=None, max_length=LONGEST_NAME)
    firstName: Name = Field(  # noqa: N815 -- the browser client's names
        default=None, max_length=LONGEST_NAME, description="With `lastName`, in the place of `full_name`."
    )
    lastName: Annotated[Name, AfterValidator(_behind_the_first)] = Field(  # noqa: N815
        default=None, max_length=LONGEST_NAME, description="With `firstName`, in the place of `full_name`."
    )
    user_role: Role = Field(default=None, description="`customer` means `client`, as absence does.")
    role: Role = Field(default=None, description="The same as `user_role`, which goes before it.")
    company_name: OptionalName = Field(default=None, max_length=LONGEST_COMPANY)
    company: OptionalName = Field(
        default=None, max_length=LONGEST_COMPANY, description="The same as `company_name`, which goes before it."
    )
    industry: OptionalLine = Field(default=None, max_length=255)
    project_budget: OptionalLine = Field(default=None, max_length=255)
    skills: OptionalLine = Field(default=None, max_length=1000)
    portfolio: OptionalLine = Field(default=None, max_length=500)
    github: OptionalLine = Field(default=None, max_length=255)
    phone: OptionalLine = Field(default=None, max_length=50)
    website: OptionalLine = Field(default=None, max_length=500)
    experience: OptionalLine = Field(default=None, max_length=100)
    tos_accepted: Terms = None
    termsAccepted: Terms = Field(default=None, description="The same as `tos_accepted`.")  # noqa: N815 -- as above
    terms: Terms = Field(default=None, description="The same as `tos_accepted`.")

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, data: Any) -> Any:
        """Keep the name in one piece or, where it is absent, in two; one that is missing is so in the caller's word."""
        if not isinstance(data, dict):
            return data
        told = {name: data[name] for name in NAMES if name in data}
        given = {name: value for name, value in told.items() if _blank_is_absent(value) is not None}
        if "full_name" in given or not given:
            first = next(iter(given or told), "full_name")
            given = {first: given.get(first, "")}
        return {name: value for name, value in data.items() if name not in NAMES} | given

    @property
    def name_given(self) -> str:
        """The person's name, in one piece."""
        return self.full_name or " ".join(part for part in (self.firstName, self.lastName) if part)

    @property
    def role_given(self) -> str:
        """What the account is for."""
        return self.user_role or self.role or "client"

    @property
    def company_given(self) -> str | None:
        """The company, if there is one."""
        return self.company_name or self.company

    @property
    def profile(self) -> dict[str, str]:
        """The further columns of the account that were given."""
        names = ("industry", "project_budget", "skills", "portfolio", "github", "phone", "website", "experience")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def terms_source(self) -> str:
        """Where the acceptance of the terms comes from: the older client sends none, but its button needs the tick."""
        return "api" if self.tos_accepted or self.termsAccepted or self.terms else "legacy client"


class SignInBody(BaseModel):
    """An address and a password; `userType` of the older pages is ignored like every unknown field."""

    email: str = Field(max_length=1000)
    password: str = Field(max_length=LONGEST_PASSWORD_READ)


class TokenForm(BaseModel):
    """The form of `/api/token`: OAuth's names for the same two."""

    username: str = Field(max_length=1000)
    password: str = Field(max_length=LONGEST_PASSWORD_READ)


class ProfileBody(BaseModel):
    """What the browser client's second page asks; anything not named here is ignored."""

    model_config = ConfigDict(extra="ignore")

    companyName: Annotated[Written, AfterValidator(_name_line)] | None = Field(  # noqa: N815 -- the client's names
        default=None, max_length=255
    )
    industry: Written | None = Field(default=None, max_length=255)
    companySize: Written | None = Field(default=None, max_length=100)  # noqa: N815
    businessType: Written | None = Field(default=None, max_length=255)  # noqa: N815
    useCase: Written | None = Field(default=None, max_length=4000)  # noqa: N815
    budget: Written | None = Field(default=None, max_length=100)
    goals: list[Annotated[Written, Field(max_length=500)]] | None = Field(default=None, max_length=50)
    preferredIntegrations: list[Annotated[Written, Field(max_length=255)]] | None = Field(  # noqa: N815
        default=None, max_length=50
    )
    timeline: Written | None = Field(default=None, max_length=255)
    experience: Written | None = Field(default=None, max_length=4000)
    githubUrl: Written | None = Field(default=None, max_length=500)  # noqa: N815
    portfolioUrl: Written | None = Field(default=None, max_length=500)  # noqa: N815
    skills: list[Annotated[Written, Field(max_length=255)]] | None = Field(default=None, max_length=100)
    specializations: list[Annotated[Written, Field(max_length=255)]] | None = Field(default=None, max_length=100)
    previousWork: Written | None = Field(default=None, max_length=8000)  # noqa: N815
    workType: Written | None = Field(default=None, max_length=255)  # noqa: N815
    availability: Written | None = Field(default=None, max_length=255)
    payoutMethod: Written | None = Field(default=None, max_length=255)  # noqa: N815
    bio: Written | None = Field(default=None, max_length=8000)
    profileImage: Written | None = Field(default=None, max_length=2000)  # noqa: N815
    socialLinks: "SocialLinks | None" = None  # noqa: N815
    profileCompleted: bool | None = None  # noqa: N815
    phase2Completed: bool | None = None  # noqa: N815


class SocialLinks(BaseModel):
    """Addresses of a developer's pages elsewhere."""

    model_config = ConfigDict(extra="ignore")

    linkedin: Written | None = Field(default=None, max_length=500)
    twitter: Written | None = Field(default=None, max_length=500)
    website: Written | None = Field(default=None, max_length=500)


class AvailabilityAnswer(BaseModel):
    """V1: `available` is null when it could not be checked; `suggestion` is there where the address looks mistyped."""

    available: bool | None
    reason: str | None = None
    message: str
    suggestion: str | None = None
    detail: str | None = None
    errors: dict[str, list[str]] | None = None


class OlderAvailabilityAnswer(AvailabilityAnswer):
    """V7, step 1."""

    success: bool


class PasswordAnswer(BaseModel):
    """V2."""

    valid: bool
    score: int
    requirements: dict[str, bool]
    message: str


class RegistrationAnswer(BaseModel):
    """V3: the account and a token for it, the token also in the browser client's spelling."""

    id: str
    email: str
    full_name: str | None
    user_role: str
    company_name: str | None
    created_at: datetime
    access_token: str
    accessToken: str  # noqa: N815
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 -- a word of the protocol


class OlderRegistrationAnswer(RegistrationAnswer):
    """V7, step 2 and the three-step page."""

    success: bool = True
    message: str = "Your account is open."


class AppliedAnswer(BaseModel):
    """V3 where nobody may learn who has an account: there is a mail to read. The same for every address."""

    detail: str


class OlderAppliedAnswer(AppliedAnswer):
    """The same for the older pages, which read `message`."""

    success: bool = True

    @computed_field  # type: ignore[prop-decorator]
    @property
    def message(self) -> str:
        """The sentence once more."""
        return self.detail


class QueuedAnswer(BaseModel):
    """V3 when many people register: a ticket to send the same body with again at its turn."""

    detail: str
    errors: dict[str, list[str]] = {}
    ticket: str
    place: int
    eta_seconds: int


class OlderQueuedAnswer(QueuedAnswer):
    """The same for the older pages, which read `message`."""

    success: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def message(self) -> str:
        """The sentence once more."""
        return self.detail


class PlaceAnswer(BaseModel):
    """V9; at one's turn `seconds_left` says how long it is still kept. A place expires too by being given up, which
    another tab may have done."""

    status: Literal["waiting", "ready", "done", "expired"]
    place: int
    eta_seconds: int
    seconds_left: int
    was_given_up: bool
    detail: str


class PersonAnswer(BaseModel):
    """A person as the browser client knows them."""

    id: str
    email: str
    firstName: str  # noqa: N815
    lastName: str  # noqa: N815
    role: str


class MeAnswer(PersonAnswer):
    """V5."""

    full_name: str | None
    user_role: str
    company_name: str | None
    created_at: datetime


class SignInAnswer(BaseModel):
    """V4."""

    access_token: str
    token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 -- a word of the protocol
    user: PersonAnswer


class ProfileAnswer(BaseModel):
    """V8."""

    success: bool = True
    message: str
    profile: dict[str, Any]

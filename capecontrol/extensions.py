"""The libraries the application is made of, unconfigured; imports nothing of ours."""

from flask_login import LoginManager
from flask_mailman import Mail
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect
from procrastinate import App as JobQueue
from procrastinate.contrib.sqlalchemy import SQLAlchemyPsycopg2Connector
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """What every model stands on: constraint names by convention, so that migrations can name them."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


# Objects stay readable after a commit: a view renders what the service returned without a second transaction.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
migrate = Migrate()
login_manager = LoginManager()
csrf = CSRFProtect()
mail = Mail()

# Services defer jobs on the session's own connection, so a job exists if and only if the transaction commits;
# this connector is therefore never opened, and the worker brings its own.
jobs = JobQueue(connector=SQLAlchemyPsycopg2Connector(dsn="postgresql+psycopg2://"))
